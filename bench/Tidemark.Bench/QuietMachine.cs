namespace Tidemark.Bench;

/// <summary>
/// One measurement at a time on a machine: a soak that goes on for hours rests between two rounds while something is
/// measured, and a measurement begins when the round has ended. Held by this process until it is disposed of, or ends.
/// </summary>
internal sealed class QuietMachine : IDisposable
{
    private static readonly string s_file = Path.Combine(Path.GetTempPath(), "tidemark-bench.lock");

    private static readonly TimeSpan s_lookEvery = TimeSpan.FromMilliseconds(100);

    private readonly FileStream? _lock;

    private QuietMachine(FileStream? held) => _lock = held;

    /// <summary>
    /// Waits for others on this machine as long as it takes: what they do is bounded. The lock of another user, which can
    /// not be opened, is no reason not to measure.
    /// </summary>
    internal static QuietMachine Hold(bool tells = true)
    {
        while (true)
        {
            if (TryHold() is { } mine)
                return mine;
            if (tells)
                Console.Error.WriteLine($"bench: another one measures on this machine and holds {s_file}; waiting for it.");
            tells = false;
            Thread.Sleep(s_lookEvery);
        }
    }

    /// <summary>Whether a measurement goes on or waits for its turn: for one that holds nothing.</summary>
    internal static bool IsWanted()
    {
        Thread.Sleep(s_lookEvery * 2);
        if (TryHold() is not { } mine)
            return true;
        mine.Dispose();
        return false;
    }

    public void Dispose() => _lock?.Dispose();

    private static QuietMachine? TryHold()
    {
        try
        {
            return new QuietMachine(new FileStream(s_file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
        }
        catch (UnauthorizedAccessException)
        {
            return new QuietMachine(null);
        }
        catch (IOException) when (File.Exists(s_file))
        {
            return null;
        }
    }
}
