using System.Diagnostics.CodeAnalysis;

namespace Tidemark.Kernel.Soft.Files;

/// <summary>An open file and what keeps it open: its descriptors and the calls in progress.</summary>
internal sealed class OpenFile(SoftFile file)
{
    /// <summary>Guarded by the table's lock.</summary>
    internal int References { get; set; }

    public SoftFile File { get; } = file;
}

/// <summary>
/// The soft descriptors. They start above every number the host gives, so that one number names one file. A file is
/// released when its last descriptor is closed and no call on it is in progress, as in Linux.
/// </summary>
internal sealed class FdTable
{
    /// <summary>LIMIT: the host's descriptors lie below (the default ceiling of RLIMIT_NOFILE).</summary>
    public const int First = 1 << 20;

    private readonly Lock _gate = new();
    private readonly List<OpenFile?> _slots = [];
    private int _open;

    /// <summary>Open descriptors.</summary>
    public int Count
    {
        get
        {
            lock (_gate)
                return _open;
        }
    }

    public static bool IsSoft(int fd) => fd >= First;

    /// <summary>Gives a file its first descriptor: the lowest free one.</summary>
    public int Add(SoftFile file)
    {
        lock (_gate)
            return Place(new OpenFile(file));
    }

    /// <summary>Another descriptor of the same file; false when <paramref name="fd"/> is not open.</summary>
    public bool TryDuplicate(int fd, out int duplicate)
    {
        lock (_gate)
        {
            duplicate = -1;
            if (!TryFind(fd, out OpenFile? file))
                return false;
            duplicate = Place(file);
            return true;
        }
    }

    /// <summary>Finds an open file and keeps it open until <see cref="Drop"/>.</summary>
    public bool TryAcquire(int fd, [NotNullWhen(true)] out OpenFile? file)
    {
        lock (_gate)
        {
            if (!TryFind(fd, out file))
                return false;
            file.References++;
            return true;
        }
    }

    /// <summary>Ends what <see cref="TryAcquire"/> began.</summary>
    public void Drop(OpenFile file)
    {
        lock (_gate)
        {
            file.References--;
            if (file.References != 0)
                return;
        }

        file.File.Release();
    }

    /// <summary>Closes a descriptor; false when it is not open.</summary>
    public bool TryClose(int fd)
    {
        OpenFile? file;
        lock (_gate)
        {
            if (!TryFind(fd, out file))
                return false;
            _slots[fd - First] = null;
            _open--;
        }

        Drop(file);
        return true;
    }

    public void CloseAll()
    {
        int slots;
        lock (_gate)
            slots = _slots.Count;
        // Newest first: a device goes before the iommufd it is bound to.
        for (int slot = slots - 1; slot >= 0; slot--)
            TryClose(First + slot);
    }

    private bool TryFind(int fd, [NotNullWhen(true)] out OpenFile? file)
    {
        file = fd >= First && fd - First < _slots.Count ? _slots[fd - First] : null;
        return file is not null;
    }

    private int Place(OpenFile file)
    {
        file.References++;
        _open++;
        int slot = _slots.IndexOf(null);
        if (slot < 0)
        {
            slot = _slots.Count;
            _slots.Add(file);
        }
        else
        {
            _slots[slot] = file;
        }

        return First + slot;
    }
}
