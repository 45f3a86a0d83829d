using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// A virtual IOMMU above a nest parent. Only the test domain has such: its hardware is a page that can be mapped, what
/// its devices cache, and two queues in the guest's memory. Guarded by the context's lock.
/// </summary>
/// <remarks>
/// <code>
/// nest parent &lt;-- vIOMMU &lt;-- vdevice (a device's number in the guest), at most one for each device
///                        &lt;-- nested tables, event queues, hardware queues, mappings of its page
/// </code>
/// Whatever points at it keeps it from being destroyed. UAPI: iommu_viommu_alloc; the numbers of the test domain are
/// iommufd_test.h's.
/// </remarks>
internal sealed class Viommu(IommufdContext context, Hwpt parent) : IommuObject, IMappingOwner
{
    public const IommuViommuType TestType = (IommuViommuType)0xDEAD_BEEF;
    public const IommuHwptInvalidateDataType TestInvalidation = (IommuHwptInvalidateDataType)0xDEAD_BEEF;
    public const IommuVeventqType TestEvents = (IommuVeventqType)0xBEEF_BEEF;
    public const IommuHwQueueType TestQueue = (IommuHwQueueType)0xDEAD_BEEF;

    /// <summary>Of the page that can be mapped.</summary>
    public const ulong PageBytes = 2 * GuestPage.Size;

    private const int MostHardwareQueues = 2;
    private const int EntryBytes = 12;
    private const uint InvalidateAll = 1;

    private readonly SortedDictionary<ulong, Vdevice> _devices = [];
    private readonly HardwareQueue?[] _hardwareQueues = new HardwareQueue?[MostHardwareQueues];

    public Hwpt Parent { get; } = Hold(parent);

    public List<EventQueue> EventQueues { get; } = [];

    /// <summary>Shown by a mapping at <see cref="PageOffset"/>; null: made without data.</summary>
    public MemoryObject? Page { get; set; }

    public ulong PageOffset { get; set; }

    /// <summary>The number that the guest knows a device by; false: it has none here.</summary>
    public bool TryFindNumber(BoundDevice device, out ulong number)
    {
        number = device.Vdevice?.Number ?? 0;
        return ReferenceEquals(device.Vdevice?.Viommu, this);
    }

    /// <summary>EEXIST: the number is taken.</summary>
    public Errno TryAdd(Vdevice device)
    {
        if (!_devices.TryAdd(device.Number, device))
            return Errno.EEXIST;
        Users++;
        return Errno.Success;
    }

    public void Remove(Vdevice device)
    {
        _devices.Remove(device.Number);
        Users--;
    }

    /// <summary>EINVAL: no such index; EEXIST: in use; EIO: the one before it is not there yet.</summary>
    public Errno TryAdd(HardwareQueue queue, uint index)
    {
        if (index >= MostHardwareQueues)
            return Errno.EINVAL;
        if (_hardwareQueues[index] is not null)
            return Errno.EEXIST;
        if (index != 0 && _hardwareQueues[index - 1] is null)
            return Errno.EIO;
        if (index != 0)
            _hardwareQueues[index - 1]!.Users++;
        _hardwareQueues[index] = queue;
        Users++;
        return Errno.Success;
    }

    public void Remove(HardwareQueue queue)
    {
        int index = Array.IndexOf(_hardwareQueues, queue);
        _hardwareQueues[index] = null;
        if (index != 0)
            _hardwareQueues[index - 1]!.Users--;
        Users--;
    }

    /// <summary>
    /// INVALIDATE: all entries are read first, then done one by one. What came before a bad one is done, and
    /// <paramref name="done"/> counts it.
    /// </summary>
    /// <param name="read">Copies an entry of the caller's in; false: EFAULT.</param>
    public Errno Invalidate(
        IommuHwptInvalidateDataType type, uint entries, uint entryLength, NestedHwpt.EntryReader read, out uint done)
    {
        done = 0;
        if (type != TestInvalidation)
            return Errno.EINVAL;
        var all = new (uint Flags, uint Number, uint Entry)[entries];
        Span<byte> entry = new byte[entries == 0 ? 0 : Math.Max(entryLength, EntryBytes)];
        for (uint index = 0; index < entries; index++)
        {
            entry.Clear();
            if (!read(index, entry[..(int)entryLength]))
                return Errno.EFAULT;
            // A longer entry may have nothing in what is unknown; a shorter one leaves zeros.
            if (entry[EntryBytes..].ContainsAnyExcept((byte)0))
                return Errno.E2BIG;
            all[index] = (
                BinaryPrimitives.ReadUInt32LittleEndian(entry), BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]),
                BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]));
        }

        for (; done < entries; done++)
        {
            (uint flags, uint number, uint cached) = all[done];
            if ((flags & ~InvalidateAll) != 0)
                return Errno.EOPNOTSUPP;
            // The entry is looked at even when all are meant.
            if (cached >= TestDomainDevice.CacheEntries || !_devices.TryGetValue(number, out Vdevice? device))
                return Errno.EINVAL;
            device.Device.TestDevice!.Invalidate(flags == InvalidateAll ? null : cached);
        }

        return Errno.Success;
    }

    public void AddMapping()
    {
        lock (context.Gate)
        {
            Users++;
            context.Hold();
        }
    }

    public void RemoveMapping()
    {
        lock (context.Gate)
            Users--;
        context.Drop();
    }

    public override void Destroy()
    {
        Page?.Release();
        Page = null;
        Parent.Users--;
    }

    private static Hwpt Hold(Hwpt parent)
    {
        parent.Users++;
        return parent;
    }
}

/// <summary>
/// A device's identity behind a vIOMMU. It goes with the device; its id is then never given again.
/// </summary>
internal sealed class Vdevice(Viommu viommu, BoundDevice device, ulong number) : IommuObject
{
    public Viommu Viommu => viommu;

    public BoundDevice Device => device;

    /// <summary>The guest's for the device.</summary>
    public ulong Number => number;

    public override void Destroy()
    {
        viommu.Remove(this);
        device.Vdevice = null;
    }
}

/// <summary>
/// A queue of the guest's that hardware reads: as long as it lives, the mapping of its memory can not be unmapped.
/// </summary>
internal sealed class HardwareQueue(Viommu viommu, IoasAccess access) : IommuObject
{
    public override void Destroy()
    {
        viommu.Remove(this);
        access.Close();
    }
}
