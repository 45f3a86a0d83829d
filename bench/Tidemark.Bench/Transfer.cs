using System.Globalization;

namespace Tidemark.Bench;

/// <summary>Bytes that went from one process to another.</summary>
/// <param name="CpuSeconds">Processor time of both processes together.</param>
/// <param name="Kernel">Which kernel it ran on; empty where that does not matter.</param>
internal readonly record struct Transfer(ulong Bytes, double Seconds, double CpuSeconds, string Kernel)
{
    internal double BytesPerSecond => Bytes / Seconds;

    internal double CpuSecondsPerGigabyte => CpuSeconds / (Bytes / 1e9);

    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{BytesPerSecond / 1e9:0.00} GB/s {CpuSecondsPerGigabyte:0.00} CPU s/GB");
}
