using System.Diagnostics;
using System.Text.Json;
using Tidemark.Kernel.Linux;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>
/// What a pass costs before its first page is read: dirty bitmaps of 1 TiB merged, looked through and cut into runs,
/// against the same work in C on the same words.
/// </summary>
internal static unsafe class PipelineBench
{
    private const int Pairs = 15;
    private const ulong TebibytePages = 1UL << 28;
    private const double Target = 1.3;

    private static readonly double[] Densities = [0, 0.001, 0.01, 0.1];

    private static ulong s_sink;

    internal static int Run(bool json)
    {
        using var probe = new PipelineProbe();
        var figures = new List<Figure>();
        foreach (double density in Densities)
            Measure(probe, density, figures);
        if (json)
            WriteJson(figures);
        else
            WriteText(figures);
        return figures.TrueForAll(figure => figure.Ratios.Median <= Target && figure.AllocatedBytes == 0) ? 0 : 1;
    }

    private static void Measure(PipelineProbe probe, double density, List<Figure> figures)
    {
        var first = new PageBitmap(TebibytePages);
        var second = new PageBitmap(TebibytePages);
        Scatter(first, density, seed: 1);
        Scatter(second, density, seed: 2);
        int words = first.Words.Length;
        ulong[] union = new ulong[words];
        ulong[] gathered = new ulong[words];
        ulong[] target = new ulong[words];
        // Memory that was never written is one page of zeros, read from the cache.
        foreach (ulong[] array in (ulong[][])[union, gathered, target])
            Array.Fill(array, 1UL);
        Array.Clear(union);
        Array.Clear(gathered);
        PageRun[] runs = new PageRun[4096];
        var tracker = new DirtyTracker(TebibytePages, [new FixedDirtySource(first), new FixedDirtySource(second)]);
        tracker.Start();
        fixed (ulong* a = first.Words)
        fixed (ulong* b = second.Words)
        fixed (ulong* u = union)
        fixed (ulong* g = gathered)
        fixed (ulong* t = target)
        {
            // Lambdas can not capture pointers of `fixed`.
            nint left = (nint)a, right = (nint)b, into = (nint)u, between = (nint)g, to = (nint)t;
            figures.Add(Compare("merge", density,
                () => BitmapKernels.Or(target, second.Words),
                () => probe.Or((ulong*)to, (ulong*)right, words)));
            // A scan ends at the first dirty page, so only a clean bitmap is read to its end by both.
            if (density == 0)
            {
                figures.Add(Compare("scan", density,
                    () => s_sink += (ulong)BitmapKernels.IndexOfNonZero(first.Words),
                    () => s_sink += probe.Scan((ulong*)left, words)));
            }

            figures.Add(Compare("count", density,
                () => s_sink += BitmapKernels.CountSet(first.Words),
                () => s_sink += probe.Count((ulong*)left, words)));
            figures.Add(Compare("runs", density,
                () => ListRuns(first, runs),
                () => probe.Runs((ulong*)left, words)));
            figures.Add(Compare("pass: harvest of two, runs, commit", density,
                () => Pass(tracker, runs),
                () => probe.Pass((ulong*)into, (ulong*)between, (ulong*)left, (ulong*)right, words)));
        }
    }

    private static Figure Compare(string name, double density, Func<(ulong, ulong)> ours, Func<(ulong, ulong)> theirs)
    {
        // Both must find the same, or the comparison means nothing.
        if (ours() != theirs())
            throw new InvalidOperationException($"{name} at {density:P1}: ours and the probe do not find the same.");
        return Compare(name, density, () => { ours(); }, () => { theirs(); });
    }

    private static Figure Compare(string name, double density, Action ours, Action theirs)
    {
        double[] oursMs = new double[Pairs];
        double[] theirsMs = new double[Pairs];
        long allocated = 0;
        for (int pair = -1; pair < Pairs; pair++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            double our = Time(ours);
            long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
            double their = Time(theirs);
            // The first pair only warms up.
            if (pair < 0)
                continue;
            allocated += bytes;
            oursMs[pair] = our;
            theirsMs[pair] = their;
        }

        double[] ratios = [.. oursMs.Zip(theirsMs, (our, their) => our / their).Order()];
        return new Figure(
            name, density, Median(oursMs), Median(theirsMs), (ratios[Pairs / 2], ratios[0], ratios[^1]), allocated / Pairs);
    }

    private static double Time(Action body)
    {
        long start = Stopwatch.GetTimestamp();
        body();
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private static double Median(double[] values) => values.Order().ElementAt(values.Length / 2);

    private static (ulong Runs, ulong Digest) ListRuns(PageBitmap pages, PageRun[] into)
    {
        ulong from = 0, runs = 0, digest = 0;
        int listed;
        do
        {
            listed = pages.ListRuns(ref from, into);
            Mix(into.AsSpan(0, listed), ref runs, ref digest);
        }
        while (listed == into.Length);
        return (runs, digest);
    }

    private static (ulong Runs, ulong Digest) Pass(DirtyTracker tracker, PageRun[] into)
    {
        DirtyLease lease = tracker.Harvest();
        ulong from = 0, runs = 0, digest = 0;
        int listed;
        do
        {
            listed = lease.ListRuns(ref from, into);
            Mix(into.AsSpan(0, listed), ref runs, ref digest);
        }
        while (listed == into.Length);
        lease.Commit();
        return (runs, digest);
    }

    private static void Mix(ReadOnlySpan<PageRun> listed, ref ulong runs, ref ulong digest)
    {
        ulong mixed = digest;
        foreach (PageRun run in listed)
            mixed += run.FirstPage ^ run.Count;
        digest = mixed;
        runs += (ulong)listed.Length;
    }

    private static void Scatter(PageBitmap pages, double density, int seed)
    {
        var random = new Random(seed);
        pages.SetRange(0, pages.PageCount);
        pages.Clear();
        for (long page = (long)(pages.PageCount * density); page > 0; page--)
            pages.Set((ulong)random.NextInt64((long)pages.PageCount));
    }

    private static void WriteText(List<Figure> figures)
    {
        Console.WriteLine($"kernel={new LinuxKernel().Identity}  1 TiB of guest memory, pairs={Pairs}; ratio to C: median (range)");
        foreach (Figure figure in figures)
        {
            (double median, double minimum, double maximum) = figure.Ratios;
            Console.WriteLine(
                $"{figure.Name,-36} {figure.Density,6:0.0 %}  {figure.OursMs,7:0.00} ms  C {figure.ProbeMs,7:0.00} ms"
                + $"  ratio {median:0.00} ({minimum:0.00}-{maximum:0.00})  allocated {figure.AllocatedBytes}"
                + $"  target {Target:0.00}, 0 {(median <= Target && figure.AllocatedBytes == 0 ? "met" : "MISSED")}");
        }
    }

    private static void WriteJson(List<Figure> figures)
    {
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("kernel", new LinuxKernel().Identity.ToString());
        writer.WriteNumber("pairs", Pairs);
        writer.WriteNumber("target", Target);
        writer.WriteStartArray("pipeline");
        foreach (Figure figure in figures)
        {
            writer.WriteStartObject();
            writer.WriteString("name", figure.Name);
            writer.WriteNumber("density", figure.Density);
            writer.WriteNumber("milliseconds", Math.Round(figure.OursMs, 3));
            writer.WriteNumber("probeMilliseconds", Math.Round(figure.ProbeMs, 3));
            writer.WriteNumber("ratio", Math.Round(figure.Ratios.Median, 3));
            writer.WriteNumber("ratioMinimum", Math.Round(figure.Ratios.Minimum, 3));
            writer.WriteNumber("ratioMaximum", Math.Round(figure.Ratios.Maximum, 3));
            writer.WriteNumber("allocatedBytes", figure.AllocatedBytes);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
        writer.Flush();
        Console.WriteLine();
    }

    private sealed record Figure(
        string Name, double Density, double OursMs, double ProbeMs, (double Median, double Minimum, double Maximum) Ratios,
        long AllocatedBytes);

    /// <summary>A source that reports the same pages at each harvest; reading a real one is not measured here.</summary>
    private sealed class FixedDirtySource(PageBitmap written) : IDirtySource
    {
        public string Name => "fixed";

        public DirtySourceKind Kind => DirtySourceKind.Cpu;

        public void Start()
        {
        }

        public void Stop()
        {
        }

        public void Harvest(PageBitmap pages) => pages.Or(written);
    }
}
