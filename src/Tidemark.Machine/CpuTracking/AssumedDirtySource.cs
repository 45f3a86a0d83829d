using Tidemark.Memory;

namespace Tidemark.Machine.CpuTracking;

/// <summary>
/// A writer that nobody tracks: all the guest memory it can reach counts as written, at each harvest.
/// </summary>
public sealed class AssumedDirtySource : IDirtySource
{
    private readonly Func<IReadOnlyList<PageRun>> _reach;

    /// <param name="name">The writer, for instance <c>nvme2 (assumed)</c>.</param>
    /// <param name="reach">What the writer can write; runs may overlap.</param>
    public AssumedDirtySource(string name, IReadOnlyList<PageRun> reach)
        : this(name, () => reach)
    {
    }

    /// <param name="reach">What the writer can write at the time of the call; runs may overlap.</param>
    public AssumedDirtySource(string name, Func<IReadOnlyList<PageRun>> reach)
    {
        ArgumentNullException.ThrowIfNull(reach);
        Name = name;
        _reach = reach;
    }

    public string Name { get; }

    public DirtySourceKind Kind => DirtySourceKind.Assumed;

    /// <inheritdoc/>
    public void Start()
    {
        // Nothing observes this writer, so there is nothing to turn on.
    }

    /// <inheritdoc/>
    public void Stop()
    {
        // Nor to turn off.
    }

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        foreach (PageRun run in _reach())
            pages.SetRange(run.FirstPage, run.Count);
    }
}
