using System.Diagnostics;

namespace Tidemark.Migration.Tests;

/// <summary>Whoever looks at a machine can not hold it.</summary>
public sealed class EventRelayTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    [Fact]
    public void Events_are_shown_in_order_and_all_of_them_before_the_end()
    {
        var shown = new List<int>();
        using (var relay = new EventRelay<int>(shown.Add))
        {
            for (int number = 0; number < 100; number++)
                relay.Post(number);
        }

        Assert.Equal(Enumerable.Range(0, 100), shown);
    }

    [Fact]
    public void A_reader_that_does_not_read_delays_nothing_but_the_farewell()
    {
        using var gate = new ManualResetEventSlim();
        int shown = 0;
        var relay = new EventRelay<int>(_ =>
        {
            gate.Wait(s_patience);
            shown++;
        });
        long began = Stopwatch.GetTimestamp();
        for (int number = 0; number < 100_000; number++)
            relay.Post(number);
        relay.Dispose();
        Assert.InRange(Stopwatch.GetElapsedTime(began), TimeSpan.Zero, s_patience);
        Assert.Equal(0, shown);
        gate.Set();
        Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref shown) > 0, s_patience));
        // The one that was being shown, and nothing of what waited.
        Thread.Sleep(50);
        Assert.Equal(1, shown);
    }

    [Fact]
    public void A_reader_that_fails_is_shown_nothing_more()
    {
        int shown = 0;
        using (var relay = new EventRelay<int>(_ =>
        {
            shown++;
            throw new IOException("gone");
        }))
        {
            for (int number = 0; number < 10; number++)
                relay.Post(number);
        }

        Assert.Equal(1, shown);
    }
}
