using System.Globalization;

namespace Tidemark.Migration.Stream;

/// <summary>Figures as messages show them.</summary>
internal static class Words
{
    public static string Of(TimeSpan duration) => duration.TotalSeconds >= 10
        ? string.Create(CultureInfo.InvariantCulture, $"{duration.TotalSeconds:0} s")
        : string.Create(CultureInfo.InvariantCulture, $"{duration.TotalMilliseconds:0} ms");

    public static string OfRate(double bytesPerSecond) =>
        string.Create(CultureInfo.InvariantCulture, $"{bytesPerSecond / (1 << 20):0.0} MiB/s");

    public static string Of(ulong number) => number.ToString(CultureInfo.InvariantCulture);
}
