using Tidemark.Kernel.Soft.Devices;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// A device's connection to its IOMMU: translation, the IOTLB, and the writes that are on their way.
/// </summary>
/// <remarks>
/// <code>
/// TryWrite: iova -> IOTLB -> table walk (A, D set here) -> observer -> ring of posted writes ~~~ later ~~~> memory
///                                                                      landed by: a full ring, TryRead, Drain,
///                                                                      InvalidateAndDrain, a change of table
/// </code>
/// The gap between dirty bit and store is the hardware's, and software is safe only because it waits for the drain
/// after clearing dirty bits. A port without a table blocks DMA. What is another device's is handed to it at once.
/// Lock order: iommufd context, then port, then nothing but the observer's own.
/// </remarks>
internal sealed partial class DevicePort : IDmaPort
{
    /// <summary>LIMIT: writes in flight; each has a slot of a page, 256 KiB in all.</summary>
    private const int RingSlots = 64;

    private readonly Lock _gate = new();
    private readonly PhysicalMemory _physical;
    private readonly Iotlb _iotlb = new();
    private readonly byte[] _ringBytes = new byte[RingSlots * GuestPage.Size];
    private readonly PostedWrite[] _ring = new PostedWrite[RingSlots];
    private int _oldest;
    private int _posted;
    private IoPageTable? _table;
    private int _pageShift = GuestPage.Shift;
    private IDmaWriteObserver? _observer;

    /// <param name="unit">Null: the device has no IOMMU.</param>
    /// <param name="group">Of devices behind the same IOMMU, which it becomes one of; null: it is alone in a new
    /// one.</param>
    public DevicePort(SoftIommuUnit? unit, PhysicalMemory physical, IommuGroup? group = null)
    {
        Driver = unit is null ? NoIommuDriver.Instance : IommuDriver.For(unit);
        _physical = physical;
        Group = group ?? new IommuGroup();
        Group.Add(this);
    }

    /// <summary>The devices that share the owner and the table, this one among them.</summary>
    public IommuGroup Group { get; }

    /// <summary>The driver of the IOMMU that the device sits behind.</summary>
    public IommuDriver Driver { get; }

    public SoftIommuUnit Unit => Driver.Unit;

    public IDmaWriteObserver? WriteObserver
    {
        get => Volatile.Read(ref _observer);
        set
        {
            // Under the lock: when this returns, no write is half observed.
            lock (_gate)
                _observer = value;
        }
    }

    public bool TryWrite(ulong iova, ReadOnlySpan<byte> bytes)
    {
        if (bytes.IsEmpty)
            return true;
        if (iova > ulong.MaxValue - ((ulong)bytes.Length - 1))
            return false;
        lock (_gate)
        {
            while (true)
            {
                int pageBytes = 1 << _pageShift;
                int offset = (int)(iova & ((ulong)pageBytes - 1));
                int part = Math.Min(bytes.Length, pageBytes - offset);
                if (!TryTranslate(iova, write: true, out ulong page, out IPeerTarget? peer))
                    return false;
                _observer?.OnWrite(iova, (ulong)part);
                if (peer is null)
                    Post(page + (ulong)offset, bytes[..part]);
                else
                    WriteToPeer(peer, page + (ulong)offset, bytes[..part]);
                bytes = bytes[part..];
                if (bytes.IsEmpty)
                    return true;
                iova += (ulong)part;
            }
        }
    }

    public bool TryRead(ulong iova, Span<byte> into)
    {
        if (into.IsEmpty)
            return true;
        if (iova > ulong.MaxValue - ((ulong)into.Length - 1))
            return false;
        lock (_gate)
        {
            LandAll();
            while (true)
            {
                int pageBytes = 1 << _pageShift;
                int offset = (int)(iova & ((ulong)pageBytes - 1));
                int part = Math.Min(into.Length, pageBytes - offset);
                if (!TryTranslate(iova, write: false, out ulong page, out IPeerTarget? peer))
                    return false;
                if (peer is null)
                    Load(page + (ulong)offset, into[..part]);
                else
                    peer.ReadByPeer(page + (ulong)offset, into[..part]);
                into = into[part..];
                if (into.IsEmpty)
                    return true;
                iova += (ulong)part;
            }
        }
    }

    public void Drain()
    {
        lock (_gate)
            LandAll();
    }

    /// <summary>
    /// An IOTLB invalidation: cached translations of the range are dropped, and every write that was translated before
    /// is in memory when this returns.
    /// </summary>
    public void InvalidateAndDrain(ulong first, ulong last)
    {
        lock (_gate)
        {
            LandAll();
            _iotlb.Invalidate(first >> _pageShift, last >> _pageShift);
        }
    }

    /// <summary>Puts the device behind a table, or behind none: DMA is then blocked.</summary>
    public void SetTable(IoPageTable? table)
    {
        lock (_gate)
        {
            LandAll();
            _iotlb.Invalidate(0, ulong.MaxValue);
            _table = table;
            _pageShift = Math.Min(GuestPage.Shift, table?.PageShift ?? GuestPage.Shift);
        }
    }

    /// <summary>Earlier writes, to memory too, arrive before this one.</summary>
    private void WriteToPeer(IPeerTarget peer, ulong offset, ReadOnlySpan<byte> bytes)
    {
        LandAll();
        peer.WriteByPeer(offset, bytes);
    }

    /// <summary>
    /// Host address of the page that an address lies in, or its offset in the region of another device, which is not
    /// cached. Sets the leaf's bits as the access demands.
    /// </summary>
    private bool TryTranslate(ulong iova, bool write, out ulong page, out IPeerTarget? peer)
    {
        peer = null;
        ulong number = iova >> _pageShift;
        IotlbEntry entry = _iotlb.Find(number);
        IotlbFlags needed = write ? IotlbFlags.Write | IotlbFlags.DirtyKnown : IotlbFlags.Read;
        if (entry.Tag != 0 && (entry.Flags & needed) == needed)
        {
            page = entry.HostAddress;
            return true;
        }

        page = 0;
        if (_table is null || !_table.TryWalk(iova, write, out ulong physical, out IotlbFlags flags))
            return false;
        peer = _physical.PeerAt(physical);
        if (peer is not null)
        {
            page = physical & (PhysicalMemory.GranuleSize - 1);
            return true;
        }

        page = _physical.HostAddress(physical);
        _iotlb.Fill(number, page, flags);
        return true;
    }

    private void Post(ulong hostAddress, ReadOnlySpan<byte> bytes)
    {
        if (_posted == RingSlots)
            LandOldest();
        int slot = (_oldest + _posted) % RingSlots;
        bytes.CopyTo(_ringBytes.AsSpan(slot * GuestPage.Size));
        _ring[slot] = new PostedWrite(hostAddress, bytes.Length);
        _posted++;
    }

    private void LandAll()
    {
        while (_posted != 0)
            LandOldest();
    }

    private void LandOldest()
    {
        PostedWrite write = _ring[_oldest];
        Store(write.HostAddress, _ringBytes.AsSpan(_oldest * GuestPage.Size, write.ByteLength));
        _oldest = (_oldest + 1) % RingSlots;
        _posted--;
    }

    private readonly record struct PostedWrite(ulong HostAddress, int ByteLength);
}
