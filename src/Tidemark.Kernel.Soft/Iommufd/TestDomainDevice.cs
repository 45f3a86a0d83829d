using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>What a test device can and can not do (iommufd_test.h).</summary>
[Flags]
internal enum TestDeviceFlags : uint
{
    None = 0,
    NoDirtyTracking = 1,
    Pasid = 4,
    Known = NoDirtyTracking | Pasid,
}

/// <summary>
/// A device of the kernel's own, made by IOMMU_TEST_CMD: it is bound and attached from the start and does no DMA.
/// Destroying it detaches and unbinds it. Guarded by the context's lock.
/// </summary>
internal sealed class TestDomainDevice : IommuObject
{
    public const int CacheEntries = 4;

    private const byte Width = 20;
    private const uint CacheValue = 0xBA_DDAD;

    /// <summary>
    /// A PASID of which every second change fails with ENOMEM, so that tests see a failing driver; blocking it makes it
    /// good again.
    /// </summary>
    private const uint FailingPasid = 1024;

    private static readonly SoftIommuUnit s_tracking = new("test") { Kind = SoftIommuKind.TestDomain };
    private static readonly SoftIommuUnit s_plain = s_tracking with { DirtyTracking = false };

    private readonly uint[] _cache = new uint[CacheEntries];
    private bool _failsNext;

    public TestDomainDevice(IommufdContext context, PhysicalMemory physical, TestDeviceFlags flags)
    {
        PasidBits = (flags & TestDeviceFlags.Pasid) != 0 ? Width : (byte)0;
        SoftIommuUnit unit = (flags & TestDeviceFlags.NoDirtyTracking) != 0 ? s_plain : s_tracking;
        Array.Fill(_cache, CacheValue);
        var port = new DevicePort(unit, physical);
        Device = new BoundDevice(context, port, new BoundGroup(port.Group), holdsContext: false) { TestDevice = this };
    }

    public BoundDevice Device { get; }

    public byte PasidBits { get; }

    /// <summary>The vIOMMU of the table that it is attached to, and its number there; null and 0: none.</summary>
    public Viommu? Viommu { get; private set; }

    public ulong Number { get; private set; }

    public bool CacheHolds(uint entry, uint value) => entry < CacheEntries && _cache[entry] == value;

    /// <summary>An entry of the cache, or all, hold nothing any more.</summary>
    public void Invalidate(uint? entry)
    {
        if (entry is uint one)
            _cache[one] = 0;
        else
            Array.Clear(_cache);
    }

    /// <summary>Attached to a table of a vIOMMU where it has a number, or to something else.</summary>
    public void OnMoved(Viommu? viommu)
    {
        ulong number = 0;
        viommu?.TryFindNumber(Device, out number);
        // Between tables of one vIOMMU nothing is looked up again.
        if (!ReferenceEquals(viommu, Viommu))
            (Viommu, Number) = (viommu, number);
    }

    public Errno CheckPasid(uint pasid)
    {
        if (pasid >= 1u << PasidBits)
            return Errno.EINVAL;
        if (pasid != FailingPasid)
            return Errno.Success;
        _failsNext = !_failsNext;
        return _failsNext ? Errno.Success : Errno.ENOMEM;
    }

    public void OnPasidBlocked(uint pasid)
    {
        if (pasid == FailingPasid)
            _failsNext = false;
    }

    /// <summary>
    /// A page request. It goes to the queue of what the PASID is attached to, or else of a nested table of the device;
    /// without a queue nobody hears of it.
    /// </summary>
    public void Fault(uint pasid, uint group, IommuHwptPgfaultPerm permission, ulong address)
    {
        IommuHwptPgfaultFlags flags = IommuHwptPgfaultFlags.LastPage;
        uint attachment = 0;
        AttachableTable? table = Device.TableOf(0);
        if (pasid != 0)
        {
            flags |= IommuHwptPgfaultFlags.PasidValid;
            AttachableTable? own = Device.TableOf(pasid);
            attachment = own is null ? 0 : pasid;
            table = own ?? table as NestedHwpt;
        }

        table?.Faults?.Deliver(new PageRequest(Device, attachment, flags, pasid, group, permission, address));
    }

    public override void Destroy() => Device.Unbind();
}
