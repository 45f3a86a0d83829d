namespace Tidemark.Bench.Soak;

/// <summary>
/// What one process holds after each migration that it survived. The first few are its warm-up; after those nothing that
/// is counted in pieces may grow, and its memory's slope is told.
/// </summary>
internal sealed class LeakWatch
{
    private const int WarmUp = 3;

    /// <summary>A life of so many migrations tells how its memory goes on once all of the code has been used.</summary>
    private const int LongLife = 60;

    /// <summary>LIMIT: a line of growth over so many migrations is no accident of the garbage collector.</summary>
    private const int JudgedMigrations = 8;

    /// <summary>Growth of private memory, over the migrations that one process survived, that is called a leak.</summary>
    private const double MemoryLimitKiB = 48 << 10;

    /// <summary>Threads of the pool come and go, and each has two mappings.</summary>
    private const int MappingsLimit = 80;

    private readonly List<ProcessFigures> _figures = [];

    internal IReadOnlyList<ProcessFigures> Figures => _figures;

    /// <summary>What has grown and may not, or null. A process may take a moment to come to rest.</summary>
    internal string? Look(int process)
    {
        ProcessFigures? now = null;
        string? grown = null;
        for (int look = 0; look < 50; look++)
        {
            now = ProcessFigures.Read(process);
            grown = now is null ? "it has ended" : FindGrowth(now);
            if (grown is null)
                break;
            Thread.Sleep(100);
        }

        if (now is not null)
            _figures.Add(now);
        return grown ?? FindMemoryGrowth();
    }

    /// <summary>Least squares, KiB a migration; the warm-up left out.</summary>
    internal double? Slope() => Slope(WarmUp);

    /// <summary>The same over the second half of a long life, or null.</summary>
    internal double? SlopeWhenSettled() => _figures.Count < LongLife ? null : Slope(_figures.Count / 2);

    private double? Slope(int skipped)
    {
        double[] values = [.. _figures.Skip(skipped).Select(figures => (double)figures.PrivateKiB)];
        if (values.Length < 2)
            return null;
        double middle = (values.Length - 1) / 2.0;
        double mean = values.Average();
        double over = values.Select((value, index) => (index - middle) * (value - mean)).Sum();
        return over / values.Select((_, index) => (index - middle) * (index - middle)).Sum();
    }

    private string? FindMemoryGrowth()
    {
        int judged = _figures.Count - WarmUp;
        return judged >= JudgedMigrations && Slope() * judged > MemoryLimitKiB
            ? $"private memory grows by {Slope():0} KiB a migration, over {judged} migrations: {_figures[WarmUp].PrivateKiB} to {_figures[^1].PrivateKiB} KiB"
            : null;
    }

    private string? FindGrowth(ProcessFigures now)
    {
        if (_figures.Count < WarmUp)
            return null;
        ProcessFigures[] first = [.. _figures.Take(WarmUp)];
        (string Name, int Now, int Before)[] counts =
        [
            ("descriptors", now.Descriptors, first.Max(figures => figures.Descriptors)),
            ("sockets", now.Sockets, first.Max(figures => figures.Sockets)),
            ("mappings of guest memory", now.GuestMappings, first.Max(figures => figures.GuestMappings)),
            ("mappings", now.Mappings, first.Max(figures => figures.Mappings) + MappingsLimit),
        ];
        (string Name, int Now, int Before)[] grown = [.. counts.Where(count => count.Now > count.Before)];
        return grown.Length == 0
            ? null
            : string.Join(", ", grown.Select(count => $"{count.Now} {count.Name} where {count.Before} were after its first migrations"))
                + $" ({now.DescribeGrowth(first[^1])})";
    }
}
