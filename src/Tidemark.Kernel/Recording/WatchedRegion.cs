namespace Tidemark.Kernel.Recording;

/// <summary>How much of a region is looked at.</summary>
internal enum RegionWatch
{
    /// <summary>Nothing: device memory, or a file that is not the program's own.</summary>
    None,

    /// <summary>Pages that the process has touched: reading others would make them, or end the process.</summary>
    Present,

    /// <summary>Every page.</summary>
    Whole,
}

/// <summary>Mapped memory of a process and what was last seen in it. Nothing was written to a page that is absent.</summary>
internal sealed class WatchedRegion(ulong start, ulong end, RegionWatch watch, Dictionary<ulong, byte[]> seen)
{
    public ulong Start { get; } = start;

    /// <summary>The first address behind it.</summary>
    public ulong End { get; } = end;

    public RegionWatch Watch { get; } = watch;

    /// <summary>Content by page address.</summary>
    public Dictionary<ulong, byte[]> Seen { get; } = seen;
}
