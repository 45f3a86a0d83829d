using Tidemark.Memory;
using Tidemark.Memory.Codecs;

namespace Tidemark.Migration.Tests;

/// <summary>Contents that change on their way, and contents that are compressed.</summary>
public sealed class ContentTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_page_that_changes_between_its_hash_and_the_wire_comes_again(bool tracked)
    {
        using var world = new World();
        int changes = 0;
        world.Network.OnSendPages = run =>
        {
            if (run.FirstPage > 5 || run.FirstPage + run.Count <= 5 || Interlocked.Increment(ref changes) > 1)
                return;
            // Whether the tracker saw it or not: what arrived is not what was hashed, and the destination says so.
            if (tracked)
                world.Source.Memory.Write(new GuestPhysicalAddress(5UL << GuestPage.Shift), "late"u8);
            else
                "late"u8.CopyTo(world.Source.Memory.PagesSpan(5, 1));
        };
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(world.MemoryEqual());
        Assert.True(outcome.Report.Passes.Aggregate(0UL, (sum, pass) => sum + pass.RepeatedPages) > 0);
    }

    [Fact]
    public void Content_that_changes_although_the_machine_stands_still_ends_the_migration()
    {
        using var world = new World();
        world.Source.OnLastWrite = () => world.Source.Fill(8, 1, seed: 77);
        bool stopped = false;
        world.OnSourceEvent = migrationEvent =>
            stopped |= migrationEvent is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Switchover };
        world.Network.OnSendPages = run =>
        {
            if (stopped && run.FirstPage <= 8 && run.FirstPage + run.Count > 8)
                world.Source.Memory.PagesSpan(8, 1)[100]++;
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("although the machine stands still", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(Compression.Always)]
    [InlineData(Compression.Auto)]
    public void Compressed_pages_arrive_and_take_less(Compression compression)
    {
        if (MakeCodec() is not { } codec)
            return;
        using var plain = new World();
        Fill(plain);
        Assert.Equal(MigrationResult.Completed, plain.Run().Result);
        using var world = new World();
        Fill(world);
        world.Options = world.Options with { Compression = compression, Codec = codec };
        world.DestinationOptions = world.DestinationOptions with { Codec = codec };
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(world.MemoryEqual());
        if (compression == Compression.Always)
            Assert.True(Sent(world) < Sent(plain) * 6 / 10, $"{Sent(world)} bytes instead of {Sent(plain)}");
    }

    [Fact]
    public void A_destination_that_can_not_decompress_refuses_before_anything_is_sent()
    {
        if (MakeCodec() is not { } codec)
            return;
        using var world = new World();
        world.Options = world.Options with { Compression = Compression.Auto, Codec = codec };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("libzstd", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_damaged_compressed_block_is_never_taken_for_a_good_one()
    {
        if (MakeCodec() is not { } codec)
            return;
        int failed = 0;
        for (long at = 100; at < 2_000; at += 97)
        {
            using var world = new World();
            Fill(world);
            world.Options = world.Options with { Compression = Compression.Always, Codec = codec };
            world.DestinationOptions = world.DestinationOptions with { Codec = codec };
            world.Network.Plan(1, true, new WireFault { FlipAt = at });
            MigrationOutcome outcome = world.Run(TimeSpan.FromMilliseconds(20));
            world.CheckRunners(outcome);
            failed += outcome.Result == MigrationResult.Failed ? 1 : 0;
        }

        Assert.True(failed > 0);
    }

    private static long Sent(World world) => world.Network.Made.Sum(made => made.Source.Outgoing.Written);

    /// <summary>Text, as it were.</summary>
    private static void Fill(World world)
    {
        for (ulong page = 0; page < 40; page++)
        {
            Span<byte> bytes = world.Source.Memory.PagesSpan(page, 1);
            for (int at = 0; at < bytes.Length; at++)
                bytes[at] = (byte)("the same words again and again "[at % 31] + (int)(page % 3));
        }
    }

    private static Func<IPageCodec>? MakeCodec()
    {
        if (!ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out ZstdCodec? probe, out string why))
        {
            Assert.Skip(why);
            return null;
        }

        probe.Dispose();
        return () => ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out ZstdCodec? codec, out _) ? codec : throw new InvalidOperationException();
    }
}
