using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>Something with an id in an iommufd context. Guarded by the context's lock.</summary>
internal abstract class IommuObject
{
    public uint Id { get; set; }

    /// <summary>Who keeps it from being destroyed.</summary>
    public int Users { get; set; }

    /// <summary>It leaves the id table: undo what it did. Has no users.</summary>
    public abstract void Destroy();
}

/// <summary>The one id space of a context: from 1, the lowest free id first.</summary>
internal sealed class IommuObjectTable
{
    private readonly List<IommuObject?> _slots = [null];
    private readonly SortedSet<uint> _free = [];

    public int Count => _slots.Count - 1 - _free.Count;

    public IEnumerable<IommuObject> All => _slots.OfType<IommuObject>();

    public void Add(IommuObject item)
    {
        if (_free.Count != 0)
        {
            item.Id = _free.Min;
            _free.Remove(item.Id);
            _slots[(int)item.Id] = item;
        }
        else
        {
            item.Id = (uint)_slots.Count;
            _slots.Add(item);
        }
    }

    public void Remove(IommuObject item)
    {
        _slots[(int)item.Id] = null;
        _free.Add(item.Id);
    }

    /// <summary>As <see cref="Remove"/>, but nothing gets its id again.</summary>
    public void Bury(IommuObject item) => _slots[(int)item.Id] = null;

    public IommuObject? Find(uint id) => id < (uint)_slots.Count ? _slots[(int)id] : null;

    public T? Find<T>(uint id)
        where T : IommuObject =>
        Find(id) as T;

    /// <summary>IOMMU_DESTROY: ENOENT without such an object, EBUSY while it has users.</summary>
    public Errno TryDestroy(uint id)
    {
        IommuObject? item = Find(id);
        if (item is null)
            return Errno.ENOENT;
        if (item.Users != 0)
            return Errno.EBUSY;
        Remove(item);
        item.Destroy();
        return Errno.Success;
    }
}
