using System.Text.Json;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>How near the loops over pages and bitmaps come to reading memory as fast as this machine can.</summary>
internal static unsafe class KernelsBench
{
    private const int Rounds = 11;

    /// <summary>
    /// A round over a bitmap is shorter than a time slice, so many rounds are needed to see past a neighbour.
    /// </summary>
    private const int BitmapRounds = 101;

    /// <summary>Larger than any cache that a bench should not measure.</summary>
    private const ulong RegionBytes = 1UL << 30;

    private const ulong TebibytePages = 1UL << 28;

    /// <summary>
    /// The bitmap of 1 TiB is 32 MiB; it is scanned several times a round, to be longer than the clock's grain.
    /// </summary>
    private const int ScansPerRound = 8;

    private static ulong s_sink;

    internal static int Run(bool json)
    {
        var kernel = new LinuxKernel();
        using Mapping region = Mapping.CreateAnonymous(kernel, RegionBytes);
        kernel.Madvise(region.Address.Value, RegionBytes, MemoryAdvice.HugePage);
        kernel.Madvise(region.Address.Value, RegionBytes, MemoryAdvice.PopulateWrite);
        byte* bytes = (byte*)region.Address.Value;

        var read = new Series("read, 1 GiB", RegionBytes, () => s_sink += ReadBandwidth.Sweep(bytes, RegionBytes));
        var zero = new Series("zero-page test, 1 GiB of zero pages", RegionBytes, () => CountZeroPages(bytes));
        var hash = new Series("page hash, 1 GiB", RegionBytes, () => HashPages(bytes));
        Series.RunInterleaved(Rounds, read, zero, hash);

        var clean = new PageBitmap(TebibytePages);
        ulong bitmapBytes = (ulong)clean.Words.Length * sizeof(ulong);
        Series readBitmap, scan;
        fixed (ulong* words = clean.Words)
        {
            byte* start = (byte*)words;
            readBitmap = new Series(
                "read, 32 MiB bitmap", ScansPerRound * bitmapBytes,
                () => Repeat(() => s_sink += ReadBandwidth.Sweep(start, bitmapBytes)));
            scan = new Series(
                "scan of a clean 1 TiB bitmap", ScansPerRound * bitmapBytes, () => Repeat(() => Scan(clean)));
            Series.RunInterleaved(BitmapRounds, readBitmap, scan);
        }

        (Series Series, Series Yardstick, double? Target)[] results =
            [(zero, read, 0.80), (hash, read, null), (scan, readBitmap, 0.90)];
        if (json)
            WriteJson(kernel.Identity, results);
        else
            WriteText(kernel.Identity, results);
        bool met = Array.TrueForAll(
            results, result => result.Series.RatioTo(result.Yardstick).Median >= (result.Target ?? 0));
        return met ? 0 : 1;
    }

    private static void CountZeroPages(byte* bytes)
    {
        ulong count = 0;
        for (ulong offset = 0; offset < RegionBytes; offset += GuestPage.Size)
        {
            if (PageKernels.IsZero(new ReadOnlySpan<byte>(bytes + offset, GuestPage.Size)))
                count++;
        }

        if (count != RegionBytes / GuestPage.Size)
            throw new InvalidOperationException("The zero-page test overlooked a zero page.");
    }

    private static void HashPages(byte* bytes)
    {
        for (ulong offset = 0; offset < RegionBytes; offset += GuestPage.Size)
            s_sink += PageHash.Compute(new ReadOnlySpan<byte>(bytes + offset, GuestPage.Size));
    }

    private static void Scan(PageBitmap clean)
    {
        if (clean.TryNextRun(0, ulong.MaxValue, out _))
            throw new InvalidOperationException("The clean bitmap is not clean.");
    }

    private static void Repeat(Action body)
    {
        for (int scan = 0; scan < ScansPerRound; scan++)
            body();
    }

    private static void WriteText(
        KernelIdentity identity, ReadOnlySpan<(Series Series, Series Yardstick, double? Target)> results)
    {
        Console.WriteLine($"kernel={identity}  rounds={Rounds} (bitmap {BitmapRounds}), interleaved; median (range)");
        foreach ((Series series, Series yardstick, double? target) in results)
        {
            (double median, double minimum, double maximum) = series.RatioTo(yardstick);
            Console.WriteLine(
                $"{series.Name,-38} {Speed(series)}  read {Speed(yardstick)}"
                + $"  ratio {median:0.00} ({minimum:0.00}-{maximum:0.00})"
                + (target is null ? "" : $"  target {target:0.00} {(median >= target ? "met" : "MISSED")}"));
        }
    }

    private static string Speed(Series series) =>
        $"{series.Median / 1e9,6:0.0} GB/s ({series.Minimum / 1e9:0.0}-{series.Maximum / 1e9:0.0})";

    private static void WriteJson(
        KernelIdentity identity, ReadOnlySpan<(Series Series, Series Yardstick, double? Target)> results)
    {
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("kernel", identity.ToString());
        writer.WriteNumber("rounds", Rounds);
        writer.WriteNumber("bitmapRounds", BitmapRounds);
        writer.WriteStartArray("kernels");
        foreach ((Series series, Series yardstick, double? target) in results)
        {
            (double median, double minimum, double maximum) = series.RatioTo(yardstick);
            writer.WriteStartObject();
            writer.WriteString("name", series.Name);
            writer.WriteNumber("bytesPerSecond", Math.Round(series.Median));
            writer.WriteNumber("readBytesPerSecond", Math.Round(yardstick.Median));
            writer.WriteNumber("ratio", Math.Round(median, 3));
            writer.WriteNumber("ratioMinimum", Math.Round(minimum, 3));
            writer.WriteNumber("ratioMaximum", Math.Round(maximum, 3));
            if (target is not null)
                writer.WriteNumber("target", target.Value);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
        writer.Flush();
        Console.WriteLine();
    }
}
