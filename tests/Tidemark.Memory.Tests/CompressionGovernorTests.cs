using Tidemark.Memory.Codecs;

namespace Tidemark.Memory.Tests;

/// <summary>The governor on links that are simulated: a buffer that a link drains, and a sender that compresses.</summary>
public sealed class CompressionGovernorTests
{
    private const int BlockBytes = 256 << 10;
    private const long GiB = 1L << 30;

    /// <summary>Speed of compression and sent part, as measured with zstd -1 (see ZstdCodec); and slower ones.</summary>
    private static readonly (string Name, double BytesPerSecond, double Ratio)[] s_contents =
    [
        ("text", 360e6, 1 / 3.6), ("text, busy machine", 65e6, 1 / 3.5), ("shared objects", 413e6, 1 / 1.69),
        ("records", 1033e6, 1 / 9.4), ("half zeros", 2283e6, 0.505), ("random", 2500e6, 1), ("random, busy machine", 340e6, 1),
    ];

    [Fact]
    public void On_loopback_it_never_costs_a_twentieth_whatever_the_memory_holds()
    {
        foreach (double link in (double[])[1.0e9, 1.6e9, 3e9, 6e9])
        {
            foreach ((string name, double speed, double ratio) in s_contents)
            {
                double off = Run(4 * GiB, _ => link, _ => (speed, ratio), Mode.Off);
                double automatic = Run(4 * GiB, _ => link, _ => (speed, ratio), Mode.Automatic);
                Assert.True(automatic <= 1.05 * off, $"{name} at {link / 1e6} MB/s: {automatic / off:0.000} of off.");
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(3)]
    public void At_100_MB_a_second_compressible_memory_goes_at_least_as_much_faster_as_promised(int content)
    {
        (string name, double speed, double ratio) = s_contents[content];
        double off = Run(4 * GiB, _ => 100e6, _ => (speed, ratio), Mode.Off);
        double automatic = Run(4 * GiB, _ => 100e6, _ => (speed, ratio), Mode.Automatic);
        double promised = ratio < 0.5 ? 2 : 0.9 / ratio;
        Assert.True(off / automatic >= promised, $"{name}: {off / automatic:0.00} times faster.");
    }

    [Fact]
    public void On_any_link_it_comes_near_the_better_of_always_and_never()
    {
        foreach (double link in (double[])[10e6, 50e6, 100e6, 200e6, 400e6, 800e6, 1600e6])
        {
            foreach ((string name, double speed, double ratio) in s_contents)
            {
                double best = Math.Min(
                    Run(4 * GiB, _ => link, _ => (speed, ratio), Mode.Off), Run(4 * GiB, _ => link, _ => (speed, ratio), Mode.On));
                double automatic = Run(4 * GiB, _ => link, _ => (speed, ratio), Mode.Automatic);
                Assert.True(automatic <= 1.15 * best, $"{name} at {link / 1e6} MB/s: {automatic / best:0.00} of the best.");
            }
        }
    }

    [Fact]
    public void It_follows_content_that_changes()
    {
        foreach (long stretch in (long[])[64L << 20, 512L << 20])
        {
            (double, double) At(long position) => position / stretch % 2 == 0 ? (360e6, 1 / 3.6) : (2500e6, 1.0);
            double off = Run(4 * GiB, _ => 100e6, At, Mode.Off);
            double on = Run(4 * GiB, _ => 100e6, At, Mode.On);
            double automatic = Run(4 * GiB, _ => 100e6, At, Mode.Automatic);
            Assert.True(automatic <= 1.1 * on && automatic < 0.8 * off, $"{stretch >> 20} MiB: {automatic:0.0} s, {on:0.0} on, {off:0.0} off.");
        }
    }

    [Fact]
    public void It_follows_a_link_that_changes()
    {
        foreach ((double before, double after) in ((double, double)[])[(100e6, 2e9), (2e9, 100e6)])
        {
            double Link(double second) => second < 10 ? before : after;
            double off = Run(32 * GiB, Link, _ => (360e6, 1 / 3.6), Mode.Off);
            double on = Run(32 * GiB, Link, _ => (360e6, 1 / 3.6), Mode.On);
            double automatic = Run(32 * GiB, Link, _ => (360e6, 1 / 3.6), Mode.Automatic);
            Assert.True(automatic <= 1.15 * Math.Min(off, on), $"{before} to {after}: {automatic:0.0} s, {on:0.0} on, {off:0.0} off.");
        }
    }

    [Fact]
    public void It_gives_up_what_is_slower_than_it_looks()
    {
        // A receiver that restores slower than the link is not in any prediction: only what is achieved tells.
        var governor = new CompressionGovernor();
        double raw = BlockBytes / 1e9;
        double seconds = 0, blocks = 0;
        for (long sent = 0; sent < 8 * GiB; sent += BlockBytes, blocks++)
        {
            if (governor.ShouldCompress())
            {
                double took = governor.IsCompressing ? 5 * raw : 0.5 * raw;
                governor.SentCompressed(
                    BlockBytes, BlockBytes / 10, TimeSpan.FromSeconds(0.1 * raw), TimeSpan.FromSeconds(took));
                seconds += took;
            }
            else
            {
                governor.SentRaw(BlockBytes, TimeSpan.FromSeconds(raw));
                seconds += raw;
            }
        }

        Assert.InRange(seconds / (blocks * raw), 0.9, 1.2);
    }

    [Fact]
    public void A_block_of_no_length_is_refused()
    {
        var governor = new CompressionGovernor();
        Assert.Throws<ArgumentOutOfRangeException>(() => governor.SentRaw(0, TimeSpan.Zero));
        Assert.Throws<ArgumentOutOfRangeException>(() => governor.SentCompressed(0, 1, TimeSpan.Zero, TimeSpan.Zero));
        Assert.Throws<ArgumentOutOfRangeException>(() => governor.SentCompressed(1, 0, TimeSpan.Zero, TimeSpan.Zero));
    }

    private enum Mode
    {
        Off,
        On,
        Automatic,
    }

    /// <summary>Seconds until the last byte has arrived.</summary>
    private static double Run(
        long bytes, Func<double, double> link, Func<long, (double BytesPerSecond, double Ratio)> content, Mode mode)
    {
        const double Buffer = 6 << 20;
        const double MemorySpeed = 5e9;
        var governor = new CompressionGovernor();
        double now = 0, queued = 0;
        void Spend(double seconds)
        {
            now += seconds;
            queued = Math.Max(0, queued - seconds * link(now));
        }

        for (long position = 0; position < bytes; position += BlockBytes)
        {
            double start = now;
            (double speed, double ratio) = content(position);
            bool compress = mode == Mode.On || (mode == Mode.Automatic && governor.ShouldCompress());
            double compression = compress ? BlockBytes / speed : 0;
            Spend(compression);
            int sent = compress ? (int)(BlockBytes * ratio) : BlockBytes;
            Spend(sent / MemorySpeed);
            if (queued + sent > Buffer)
                Spend((queued + sent - Buffer) / link(now));
            queued += sent;
            if (compress)
                governor.SentCompressed(BlockBytes, sent, TimeSpan.FromSeconds(compression), TimeSpan.FromSeconds(now - start));
            else
                governor.SentRaw(BlockBytes, TimeSpan.FromSeconds(now - start));
        }

        return now + queued / link(now);
    }
}
