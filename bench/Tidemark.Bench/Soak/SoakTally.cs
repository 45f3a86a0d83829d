using System.Text.Json;

namespace Tidemark.Bench.Soak;

/// <summary>What a soak counts, and what it has found.</summary>
internal sealed class SoakTally
{
    private static readonly (string Name, Func<SoakPlan, SoakRoundResult, bool> Counts)[] s_kinds =
    [
        ("completed", (_, result) => result.Outcome == "completed"),
        ("cancelled", (_, result) => result.Outcome == "cancelled"),
        ("cut and resumed", (_, result) => result.Outcome == "completed" && result.Cuts > 0),
        ("cut, stayed", (_, result) => result.Outcome == "failed" && result.Cuts > 0),
        ("killed source", (plan, result) => plan.Kind == SoakKind.KillSource && result.Outcome == "none"),
        ("killed destination", (plan, _) => plan.Kind == SoakKind.KillDestination),
        ("resolved", (_, result) => result.Resolved),
        ("over TLS", (plan, _) => plan.Tls),
        ("compared", (plan, result) => plan.Verify && result.Outcome == "completed"),
    ];

    private readonly int[] _counts = new int[s_kinds.Length];
    private readonly List<string> _violations = [];
    private readonly List<(double Milliseconds, SoakPlan Plan)> _cancels = [];

    internal int Rounds { get; private set; }

    internal ulong LostPages { get; set; }

    internal IReadOnlyList<string> Violations => _violations;

    internal void Add(SoakPlan plan, SoakRoundResult result)
    {
        Rounds++;
        for (int index = 0; index < s_kinds.Length; index++)
            _counts[index] += s_kinds[index].Counts(plan, result) ? 1 : 0;
        if (result.CancelTook is { } took)
            _cancels.Add((took.TotalMilliseconds, plan));
    }

    internal void AddViolation(string text) => _violations.Add(text);

    internal string Line() =>
        $"{Rounds} rounds: {string.Join(", ", s_kinds.Select((kind, index) => $"{kind.Name} {_counts[index]}"))}; violations {_violations.Count}";

    internal string Cancels()
    {
        if (_cancels.Count == 0)
            return "none";
        SortCancels();
        int late = _cancels.Count(cancel => cancel.Milliseconds > 1000);
        return $"median {_cancels[_cancels.Count / 2].Milliseconds:0} ms, longest {_cancels[^1].Milliseconds:0} ms, {late} of {_cancels.Count} over 1 s, "
            + $"from the request until both ends were at rest (longest: {_cancels[^1].Plan})";
    }

    internal void Write(Utf8JsonWriter writer)
    {
        writer.WriteNumber("rounds", Rounds);
        for (int index = 0; index < s_kinds.Length; index++)
            writer.WriteNumber(ToKey(s_kinds[index].Name), _counts[index]);
        writer.WriteNumber("lostPages", LostPages);
        if (_cancels.Count > 0)
        {
            SortCancels();
            writer.WriteNumber("cancelMedianMilliseconds", Math.Round(_cancels[_cancels.Count / 2].Milliseconds));
            writer.WriteNumber("cancelLongestMilliseconds", Math.Round(_cancels[^1].Milliseconds));
        }

        writer.WriteStartArray("violations");
        foreach (string violation in _violations)
            writer.WriteStringValue(violation);
        writer.WriteEndArray();
    }

    private void SortCancels() => _cancels.Sort((one, other) => one.Milliseconds.CompareTo(other.Milliseconds));

    private static string ToKey(string name)
    {
        string[] words = name.Replace(",", "", StringComparison.Ordinal).Split(' ');
        return words[0] + string.Concat(words.Skip(1).Select(word => char.ToUpperInvariant(word[0]) + word[1..]));
    }
}
