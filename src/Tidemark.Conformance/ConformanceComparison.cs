namespace Tidemark.Conformance;

/// <summary>How a case came out on another kernel.</summary>
/// <param name="Reason">Null when it passed.</param>
public sealed record ForeignResult(string Name, ConformanceVerdict Verdict, string? Reason);

/// <summary>A case that two kernels answer differently.</summary>
/// <param name="Known">Why it may: the entry of <see cref="ConformanceComparison.KnownDifferences"/>, or null.</param>
public sealed record ConformanceDifference(ConformanceResult Here, ForeignResult There, string? Known);

/// <summary>The results of one kernel beside those of another: what the twin is judged by.</summary>
/// <remarks>
/// <code>
/// here \ there    passed       failed       not applicable   absent
/// passed          agree        differ       unjudged         unjudged
/// failed          differ       agree        unjudged         unjudged
/// not applicable  unjudged     unjudged     -                -
/// </code>
/// A case that failed on both agrees; that it failed is told by the results themselves.
/// </remarks>
public sealed class ConformanceComparison
{
    private ConformanceComparison(
        int agree, IReadOnlyList<ConformanceDifference> differences, IReadOnlyList<string> onlyHere,
        IReadOnlyList<string> onlyThere)
    {
        Agree = agree;
        Differences = differences;
        OnlyHere = onlyHere;
        OnlyThere = onlyThere;
    }

    /// <summary>
    /// Differences that stay, by the case's name, with the reason. docs/internals/divergences.md has the same entries.
    /// </summary>
    public static IReadOnlyDictionary<string, string> KnownDifferences { get; } = new Dictionary<string, string>();

    /// <summary>Cases that both kernels answer, equally.</summary>
    public int Agree { get; }

    /// <summary>Cases that both kernels answer, differently.</summary>
    public IReadOnlyList<ConformanceDifference> Differences { get; }

    /// <summary>Names of cases that only this kernel can be asked.</summary>
    public IReadOnlyList<string> OnlyHere { get; }

    /// <summary>Names of cases that only the other kernel can be asked.</summary>
    public IReadOnlyList<string> OnlyThere { get; }

    public static ConformanceComparison Of(
        IReadOnlyList<ConformanceResult> here, IReadOnlyList<ForeignResult> there)
    {
        ArgumentNullException.ThrowIfNull(here);
        ArgumentNullException.ThrowIfNull(there);
        var foreign = new Dictionary<string, ForeignResult>(StringComparer.Ordinal);
        foreach (ForeignResult result in there)
            foreign[result.Name] = result;
        int agree = 0;
        var differences = new List<ConformanceDifference>();
        var onlyHere = new List<string>();
        var onlyThere = new List<string>();
        foreach (ConformanceResult result in here)
        {
            bool judgedHere = result.Verdict != ConformanceVerdict.NotApplicable;
            bool judgedThere = foreign.TryGetValue(result.Case.Name, out ForeignResult? other)
                && other.Verdict != ConformanceVerdict.NotApplicable;
            if (judgedHere && judgedThere)
            {
                if (result.Verdict == other!.Verdict)
                    agree++;
                else
                    differences.Add(new ConformanceDifference(
                        result, other, KnownDifferences.GetValueOrDefault(result.Case.Name)));
            }
            else if (judgedHere)
            {
                onlyHere.Add(result.Case.Name);
            }
            else if (judgedThere)
            {
                onlyThere.Add(result.Case.Name);
            }
        }

        return new ConformanceComparison(agree, differences, onlyHere, onlyThere);
    }
}
