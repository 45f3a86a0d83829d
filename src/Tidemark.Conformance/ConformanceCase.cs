namespace Tidemark.Conformance;

/// <summary>One promise of the uAPI and the way to check it. Runs alone, in any order, and cleans up.</summary>
public sealed class ConformanceCase
{
    internal ConformanceCase(string name, string area, string source, Action<CaseRun> body)
    {
        Name = name;
        Area = area;
        Source = source;
        Body = body;
    }

    /// <summary>Dotted and unique: <c>iommufd.ioas.map.unknown-flag</c>.</summary>
    public string Name { get; }

    /// <summary>The group it is counted in, for instance <c>ioas-map</c>.</summary>
    public string Area { get; }

    /// <summary>Where the promise is made (header or kernel behaviour), and the promise in our words.</summary>
    public string Source { get; }

    /// <summary>Throws <see cref="CaseEnded"/> unless the promise is kept.</summary>
    internal Action<CaseRun> Body { get; }

    public override string ToString() => Name;
}

/// <summary>What came of a case.</summary>
public enum ConformanceVerdict
{
    /// <summary>The kernel keeps the promise.</summary>
    Passed,

    /// <summary>The kernel does something else.</summary>
    Failed,

    /// <summary>This host lacks what the case needs; nothing is said about the kernel.</summary>
    NotApplicable,
}

/// <summary>A case that was run.</summary>
/// <param name="Reason">One sentence; null when passed.</param>
public sealed record ConformanceResult(ConformanceCase Case, ConformanceVerdict Verdict, string? Reason)
{
    /// <summary>Why no two runs of it make the same calls and get the same answers; null when they do.</summary>
    public string? Unrepeatable { get; init; }
}

/// <summary>A case that can not go on: the promise is broken, or the host lacks something.</summary>
internal sealed class CaseEnded(ConformanceVerdict verdict, string reason) : Exception(reason)
{
    public ConformanceVerdict Verdict { get; } = verdict;
}
