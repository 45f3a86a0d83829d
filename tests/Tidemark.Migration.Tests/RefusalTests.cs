using System.Buffers.Binary;
using System.Numerics;

namespace Tidemark.Migration.Tests;

public sealed class RefusalTests
{
    [Fact]
    public void Obstacles_are_told_to_both_sides_before_anything_is_sent()
    {
        using var world = new World();
        world.Destination.Obstacles.Add("The disk /disks/a.img can not be opened here: no such file; copy it.");
        world.Destination.Obstacles.Add("Locked memory is limited to 64 KiB; raise it.");
        MigrationOutcome outcome = world.Run();
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Negotiate), (outcome.Result, outcome.Phase));
        foreach (string obstacle in world.Destination.Obstacles)
        {
            Assert.Contains(obstacle, outcome.Cause, StringComparison.Ordinal);
            Assert.Contains(obstacle, world.DestinationOutcome.Cause, StringComparison.Ordinal);
        }

        Assert.Empty(world.Source.Journal);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void More_channels_than_allowed_are_refused()
    {
        using var world = new World();
        world.Options = world.Options with { Channels = 3 };
        world.DestinationOptions = world.DestinationOptions with { MaximumChannels = 2 };
        Assert.Contains("3 channels", world.Run().Cause, StringComparison.Ordinal);
    }

    [Fact]
    public void A_receiver_that_accepts_again_takes_the_next_source()
    {
        using var world = new World();
        world.DestinationOptions = world.DestinationOptions with { AcceptAgain = true };
        world.Destination.Obstacles.Add("Not now.");
        Thread receiver = world.StartDestination();
        MigrationOutcome first = Move(world);
        Assert.Contains("Not now.", first.Cause, StringComparison.Ordinal);
        world.Destination.Obstacles.Clear();
        MigrationOutcome second = Move(world);
        world.Finish(receiver, TimeSpan.FromSeconds(5));
        Assert.True(second.Result == MigrationResult.Completed, second.Cause);
        world.CheckRunners(second);
    }

    [Theory]
    [InlineData("GET / HTTP/1.1\r\n\r\n", "not Tidemark")]
    [InlineData("TIDE", "closed the connection")]
    [InlineData("", "closed the connection")]
    public void A_stranger_does_not_end_the_receiver(string text, string told)
    {
        using var world = new World();
        Thread receiver = world.StartDestination();
        using (IConnection stranger = world.Network.Connect(CancellationToken.None))
            stranger.Send(System.Text.Encoding.ASCII.GetBytes(text));
        MigrationOutcome outcome = Move(world);
        world.Finish(receiver, TimeSpan.FromSeconds(5));
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Contains(world.DestinationEvents.OfType<MigrationEvent.Decided>(),
            decided => decided.Text.Contains(told, StringComparison.Ordinal));
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_source_of_another_version_is_told_so_and_told_ours()
    {
        using var world = new World();
        Thread receiver = world.StartDestination();
        using IConnection stranger = world.Network.Connect(CancellationToken.None);
        stranger.Send(PreambleBytes(version: 9, role: 1));
        var answer = new byte[48];
        for (int have = 0; have < answer.Length;)
            have += stranger.Receive(answer.AsSpan(have));
        Assert.Equal("TIDEMARK"u8.ToArray(), answer[..8]);
        Assert.Equal(1, answer[8]);
        world.Finish(receiver, TimeSpan.FromSeconds(5));
        Assert.Equal(MigrationResult.Failed, world.DestinationOutcome.Result);
        Assert.Contains("version 9", world.DestinationOutcome.Cause, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("SSH-2.0-OpenSSH_9.2p1 and more than forty-eight bytes of it", "is not Tidemark")]
    [InlineData(null, "version 9")]
    public void A_source_that_meets_somebody_else_says_who_it_met(string? text, string told)
    {
        using var world = new World();
        byte[] greeting = text is null ? PreambleBytes(version: 9, role: 3) : System.Text.Encoding.ASCII.GetBytes(text);
        var stranger = new Thread(() =>
        {
            using IConnection connection = world.Network.Accept(CancellationToken.None);
            connection.Send(greeting);
            Thread.Sleep(100);
        });
        stranger.Start();
        MigrationOutcome outcome = Move(world);
        stranger.Join();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains(told, outcome.Cause, StringComparison.Ordinal);
        Assert.True(world.Source.Runs);
        Assert.Empty(world.Source.Journal);
    }

    private static MigrationOutcome Move(World world) =>
        new MigrationSource(world.Source, world.Network, world.Options, world, TimeProvider.System).Run(world.CancelSource.Token);

    /// <summary>A preamble written without the engine's code, from the description of the format.</summary>
    private static byte[] PreambleBytes(ushort version, ushort role)
    {
        var bytes = new byte[48];
        "TIDEMARK"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(8), version);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(10), version);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(12), role);
        uint crc = uint.MaxValue;
        foreach (byte value in bytes.AsSpan(0, 44))
            crc = BitOperations.Crc32C(crc, value);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(44), ~crc);
        return bytes;
    }
}
