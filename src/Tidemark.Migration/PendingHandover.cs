namespace Tidemark.Migration;

/// <summary>
/// A machine that stands still because nobody knows whether it runs at its destination: what an operator can do about it.
/// </summary>
/// <remarks>
/// <code>
/// Ask -> RunsThere: LetGo    -> NeverThere: TakeBack    -> NotTold, BrokenThere: a person looks there, then one of the two
/// </code>
/// One call at a time.
/// </remarks>
public sealed class PendingHandover
{
    private readonly SourceRun _run;

    internal PendingHandover(SourceRun run) => _run = run;

    /// <summary>Asks the destination, for so long. Its answer binds it: after <see cref="MachineFate.NeverThere"/> it will
    /// never run the machine.</summary>
    public MachineFate Ask(TimeSpan limit) => _run.Settle(limit);

    /// <summary>
    /// The machine runs here again. Only after <see cref="MachineFate.NeverThere"/>, or when a person has made sure that it
    /// does not run at the destination and can not.
    /// </summary>
    /// <returns>What did not come back, a sentence each.</returns>
    public IReadOnlyList<string> TakeBack() => _run.TakeBack();

    /// <summary>The machine is the destination's; what is left of it here is tidied away.</summary>
    public void LetGo() => _run.LetGo();
}
