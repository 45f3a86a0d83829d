namespace Tidemark.Cli.Hosting;

/// <summary>What a demo is to do.</summary>
/// <param name="Files">Files that serve as disks of the soft kernel; empty: the demo makes its own.</param>
internal sealed record DemoOptions(
    IReadOnlyList<string> Files, ulong MemoryBytes, int Channels, int DowntimeLimitMilliseconds, Plant Plant)
{
    /// <summary>The two devices of a demo on the real kernel, source first; empty: the soft kernel.</summary>
    public IReadOnlyList<string> Devices { get; init; } = [];

    /// <summary>On the soft kernel: controllers without migration states.</summary>
    public bool DriverAssisted { get; init; }

    /// <summary>Try everything that dirty tracking offers, and change the page table during the migration.</summary>
    public bool Exercise { get; init; }

    public bool IsLinux => Devices.Count > 0;

    public string Kernel => IsLinux ? "linux" : "soft";
}
