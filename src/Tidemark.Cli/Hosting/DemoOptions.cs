namespace Tidemark.Cli.Hosting;

/// <summary>What a demo is to do.</summary>
internal sealed record DemoOptions(
    IReadOnlyList<string> Files, ulong MemoryBytes, int Channels, int DowntimeLimitMilliseconds, Plant Plant);
