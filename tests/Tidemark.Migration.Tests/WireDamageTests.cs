namespace Tidemark.Migration.Tests;

/// <summary>Every byte of a small migration is once the last one, and once a wrong one.</summary>
public sealed class WireDamageTests
{
    public static TheoryData<int, bool, bool> Directions()
    {
        var data = new TheoryData<int, bool, bool>();
        foreach (bool flip in new[] { false, true })
        {
            for (int connection = 0; connection < 2; connection++)
            {
                data.Add(connection, true, flip);
                data.Add(connection, false, flip);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Directions))]
    public void Damage_at_any_byte_never_makes_two_runners_and_is_never_accepted(int connection, bool toDestination, bool flip)
    {
        long length = Length(connection, toDestination);
        Assert.True(length > 100);
        var results = new Dictionary<MigrationResult, int>();
        foreach (long at in Offsets(length))
        {
            using var world = new World();
            world.Options = world.Options with { IdleTimeout = TimeSpan.FromSeconds(5) };
            world.Network.Plan(
                connection, toDestination, flip ? new WireFault { FlipAt = at } : new WireFault { CutAt = at });
            MigrationOutcome outcome = world.Run(TimeSpan.FromMilliseconds(20));
            try
            {
                world.CheckRunners(outcome);
                bool commitSent = outcome.Result is MigrationResult.Completed or MigrationResult.StateUnknown;
                Assert.True(commitSent || outcome.Result == MigrationResult.Failed);
                Assert.Equal(commitSent, !world.Source.Runs);
            }
            catch (Exception failure)
            {
                throw new InvalidOperationException(
                    $"at byte {at} of {length}: {outcome.Result}, {outcome.Cause}; "
                        + $"{world.DestinationOutcome.Cause}", failure);
            }

            results[outcome.Result] = results.GetValueOrDefault(outcome.Result) + 1;
        }

        // Nearly every byte matters: only those after the last word, pings included, may go unseen.
        Assert.True(results[MigrationResult.Failed] > results.GetValueOrDefault(MigrationResult.Completed));
    }

    private static long Length(int connection, bool toDestination)
    {
        using var world = new World();
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        var made = world.Network.Made.Single(made => made.Connection == connection);
        return (toDestination ? made.Source : made.Destination).Outgoing.Written;
    }

    /// <summary>
    /// The first and last hundred bytes, and a spread of the rest that meets every position within a frame header.
    /// </summary>
    private static IEnumerable<long> Offsets(long length)
    {
        const long Edge = 96;
        long step = Math.Max(1, length / 80) | 1;
        for (long at = 0; at < length; at += at < Edge || at >= length - Edge ? 1 : Math.Min(step, Math.Max(1, length - Edge - at)))
            yield return at;
    }
}
