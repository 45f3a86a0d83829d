namespace Tidemark.Memory.Tests;

/// <summary>A dirty source whose pages and failures a test decides.</summary>
internal sealed class ScriptedDirtySource(string name) : IDirtySource
{
    private readonly HashSet<ulong> _dirty = [];

    public string Name => name;

    public DirtySourceKind Kind => DirtySourceKind.Iommu;

    public bool IsOn { get; private set; }

    public bool FailStart { get; set; }

    public bool FailStop { get; set; }

    public bool FailHarvestAtEnd { get; set; }

    public int StopCount { get; private set; }

    public void Write(params ulong[] pages) => _dirty.UnionWith(pages);

    public void Start()
    {
        if (FailStart)
            throw new InvalidOperationException($"{name} can not start.");
        IsOn = true;
        _dirty.Clear();
    }

    public void Stop()
    {
        StopCount++;
        IsOn = false;
        if (FailStop)
            throw new InvalidOperationException($"{name} can not stop.");
    }

    public void Harvest(PageBitmap pages)
    {
        foreach (ulong page in _dirty)
            pages.Set(page);
        _dirty.Clear();
        if (FailHarvestAtEnd)
            throw new InvalidOperationException($"{name} can not be harvested.");
    }
}
