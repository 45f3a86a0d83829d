using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>What a device or a PASID of it can be attached to. Guarded by the context's lock.</summary>
internal abstract class AttachableTable : IommuObject
{
    /// <summary>Allocated for use with PASIDs; the table of the device itself must then be such a one too.</summary>
    public bool PasidCompatible { get; set; }

    /// <summary>Where page requests of its devices go; null: they are answered as invalid.</summary>
    public FaultQueue? Faults { get; private set; }

    /// <summary>The table of an IOAS: this one, or the parent of a nested one.</summary>
    public abstract Hwpt Paging { get; }

    /// <summary>A device is behind the table from here on. It becomes no user of it by that.</summary>
    public abstract void AddPort(DevicePort port);

    /// <summary>The port is already elsewhere, or blocked.</summary>
    public abstract void RemovePort(DevicePort port);

    public void DeliverFaultsTo(FaultQueue queue)
    {
        Faults = queue;
        queue.Users++;
    }

    public override void Destroy()
    {
        if (Faults is not null)
            Faults.Users--;
        Faults = null;
    }
}

/// <summary>
/// A table of the guest's that is walked before its parent. Only the test domain has such: its contents are a number in
/// each of four entries of an IOTLB, which can be invalidated and looked at.
/// </summary>
internal sealed class NestedHwpt : AttachableTable
{
    public const int IotlbEntries = 4;

    /// <summary>HWPT_ALLOC and INVALIDATE of the kernel's test domain (iommufd_test.h).</summary>
    public const IommuHwptDataType TestData = (IommuHwptDataType)0xDEAD;
    public const IommuHwptInvalidateDataType TestInvalidation = (IommuHwptInvalidateDataType)0xDEAD_BEEF;

    private const uint InvalidateAll = 1;
    private const int EntryBytes = 8;

    private readonly uint[] _iotlb = new uint[IotlbEntries];
    private readonly IommuObject _holder;

    /// <param name="parent">Is used until the nested table goes.</param>
    /// <param name="value">What each entry holds at first.</param>
    public NestedHwpt(Hwpt parent, uint value)
        : this(parent, parent, value)
    {
    }

    /// <param name="viommu">Is used until the nested table goes, and through it its parent.</param>
    public NestedHwpt(Viommu viommu, uint value)
        : this(viommu.Parent, viommu, value) => Viommu = viommu;

    private NestedHwpt(Hwpt parent, IommuObject holder, uint value)
    {
        Paging = parent;
        _holder = holder;
        holder.Users++;
        Array.Fill(_iotlb, value);
    }

    /// <summary>Made for devices that have a number there; null: for any.</summary>
    public Viommu? Viommu { get; }

    public override Hwpt Paging { get; }

    public override void Destroy()
    {
        base.Destroy();
        _holder.Users--;
    }

    /// <summary>The guest's table translates nothing, so DMA is blocked.</summary>
    public override void AddPort(DevicePort port) => port.SetTable(null);

    public override void RemovePort(DevicePort port)
    {
    }

    public bool Holds(uint entry, uint value) => entry < IotlbEntries && _iotlb[entry] == value;

    /// <summary>
    /// INVALIDATE, entry by entry. What came before a bad entry is done, and <paramref name="done"/> counts it.
    /// </summary>
    /// <param name="read">Copies an entry of the caller's in; false: EFAULT.</param>
    public Errno Invalidate(
        IommuHwptInvalidateDataType type, uint entries, uint entryLength, EntryReader read, out uint done)
    {
        done = 0;
        if (type != TestInvalidation)
            return Errno.EINVAL;
        // LIMIT: a page, as the caller checked.
        Span<byte> entry = new byte[entries == 0 ? 0 : entryLength];
        for (; done < entries; done++)
        {
            if (entryLength != EntryBytes)
                return Errno.EINVAL;
            if (!read(done, entry))
                return Errno.EFAULT;
            uint flags = BinaryPrimitives.ReadUInt32LittleEndian(entry);
            uint index = BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]);
            if ((flags & ~InvalidateAll) != 0)
                return Errno.EOPNOTSUPP;
            // The number is looked at even when all entries are meant.
            if (index >= IotlbEntries)
                return Errno.EINVAL;
            if (flags == InvalidateAll)
                Array.Clear(_iotlb);
            else
                _iotlb[index] = 0;
        }

        return Errno.Success;
    }

    public delegate bool EntryReader(uint index, Span<byte> entry);
}
