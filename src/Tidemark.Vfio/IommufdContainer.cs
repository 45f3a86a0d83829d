using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>
/// Devices that see the same memory: one address space and the page tables that their IOMMUs need over it.
/// </summary>
/// <remarks>
/// <code><![CDATA[
///                 IommufdContainer
///                       |  one
///                     Ioas  <-- MapMemory: IOVA = guest-physical address
///                    /      \  newest first
///             Hwpt (dirty)   Hwpt (plain)      different IOMMUs need different page tables
///              /     \           |
///          device   device    device           mediated device: attached to the Ioas itself
///
/// Attach:  mediated --------------------------------------------> attach to the IOAS
///          other: GET_HW_INFO, then each Hwpt, newest first -- ok --> join it
///                     | EINVAL: does not fit, next one
///                     | other errno: the attach fails with it
///                 none fits: allocate (DIRTY_TRACKING if the IOMMU can) -- ok --> attach, remember
///                     | EOPNOTSUPP, ENOTTY: attach to the IOAS, without IOMMU tracking, and say so
/// Detach:  the reverse; the last device takes its Hwpt along
/// ]]></code>
/// Attach devices before memory is mapped: then the mappings are checked against what the devices can reach.
/// Members are serialised.
/// </remarks>
public sealed partial class IommufdContainer : IDisposable
{
    private readonly Lock _gate = new();
    private readonly List<ContainerHwpt> _hwpts = [];
    private readonly List<Attachment> _attachments = [];
    private bool _disposed;

    private IommufdContainer(Ioas ioas)
    {
        Ioas = ioas;
    }

    public Ioas Ioas { get; }

    public Iommufd Iommufd => Ioas.Iommufd;

    /// <summary>The page tables, newest first.</summary>
    public IReadOnlyList<ContainerHwpt> Hwpts
    {
        get { lock (_gate) return [.. _hwpts]; }
    }

    /// <summary>What is attached, in the order of attaching.</summary>
    public IReadOnlyList<Attachment> Attachments
    {
        get { lock (_gate) return [.. _attachments]; }
    }

    /// <summary>Whether any page table records dirty pages now; computed at each call, so that it ends with the last
    /// such table.</summary>
    public bool SupportsDirtyTracking
    {
        get { lock (_gate) return _hwpts.Exists(entry => entry.Hwpt.HasDirtyTracking); }
    }

    /// <exception cref="KernelException">There is no address space to be had.</exception>
    public static IommufdContainer Create(Iommufd iommufd)
    {
        ArgumentNullException.ThrowIfNull(iommufd);
        return new IommufdContainer(iommufd.AllocateIoas());
    }

    /// <summary>Attaches a bound device.</summary>
    /// <exception cref="KernelException">It could not be attached; container and device are as before.</exception>
    public Attachment Attach(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        uint deviceId = device.DeviceId
            ?? throw new InvalidOperationException(
                $"{device.Name} must be bound to the iommufd before it is attached.");
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_attachments.Exists(other => other.Device == device))
                throw new InvalidOperationException($"{device.Name} is attached already.");
            Attachment attachment = device.IsMdev
                ? AttachToIoas(device, hostIommu: null,
                    "no IOMMU tracking: a mediated device has no page table of its own")
                : AttachToPageTable(device, deviceId);
            _attachments.Add(attachment);
            return attachment;
        }
    }

    /// <summary>
    /// Detaches a device; its DMA is blocked then. The last device of a page table takes it along. Nothing when it is
    /// not attached here.
    /// </summary>
    /// <exception cref="KernelException">The kernel refused; the device is forgotten here all the same.</exception>
    public void Detach(VfioDevice device)
    {
        lock (_gate)
        {
            Attachment? attachment = _attachments.Find(other => other.Device == device);
            if (attachment is null)
                return;
            SyscallResult result = device.TryDetach();
            _attachments.Remove(attachment);
            if (attachment.Entry is { } entry)
                Leave(entry, device);
            result.ThrowIfFailed($"Detaching {device.Name}");
        }
    }

    /// <summary>Maps all guest memory, each slot at the IOVA equal to its guest-physical address.</summary>
    /// <param name="memoryFile">The file that holds guest memory.</param>
    /// <exception cref="KernelException">Refused; nothing of this call is mapped.</exception>
    public void MapMemory(GuestMemory memory, KernelFd memoryFile, DmaAccess access = DmaAccess.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(memory);
        MapSlots(memory.Slots, memoryFile, access);
    }

    /// <summary>Maps a window of guest memory only: what lies outside stays out of the devices' reach.</summary>
    /// <param name="start">Page-aligned.</param>
    /// <param name="byteLength">A multiple of the page size, not 0, in one slot.</param>
    /// <exception cref="KernelException">Refused; nothing of this call is mapped.</exception>
    public void MapWindow(
        GuestMemory memory, GuestPhysicalAddress start, ulong byteLength, KernelFd memoryFile,
        DmaAccess access = DmaAccess.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentOutOfRangeException.ThrowIfZero(byteLength);
        if (start.Value % GuestPage.Size != 0 || byteLength % GuestPage.Size != 0)
        {
            throw new ArgumentException(
                $"The window of 0x{byteLength:x} bytes at {start} is not whole pages.", nameof(start));
        }

        MemorySlot slot = memory.FindSlot(start, byteLength) ?? throw new ArgumentOutOfRangeException(
            nameof(start), $"Guest memory has no 0x{byteLength:x} bytes at {start}.");
        ulong skipped = start.Value - slot.Start.Value;
        MapSlots(
            [new MemorySlot(start, byteLength, new HostAddress(slot.Host.Value + skipped), slot.FileOffset + skipped)],
            memoryFile, access);
    }

    /// <summary>Detaches what is still attached and frees everything. Never throws; failures are counted by the
    /// iommufd.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_disposed)
                return;
            _disposed = true;
            for (int index = _attachments.Count - 1; index >= 0; index--)
            {
                if (!_attachments[index].Device.Fd.IsClosed)
                    _attachments[index].Device.TryDetach();
            }

            _attachments.Clear();
            foreach (ContainerHwpt entry in _hwpts)
                entry.Hwpt.Dispose();
            _hwpts.Clear();
            Ioas.Dispose();
        }
    }

    private Attachment AttachToPageTable(VfioDevice device, uint deviceId)
    {
        HostIommuCaps caps = Iommufd.GetHwInfo(deviceId);
        var hostIommu = new HostIommuDevice(device.Name, deviceId, caps, FindUsableIovas);
        foreach (ContainerHwpt entry in _hwpts)
        {
            // A device whose IOMMU can track would fit into a plain table too, and its writes would go unseen.
            if (caps.SupportsDirtyTracking && !entry.Hwpt.HasDirtyTracking)
                continue;
            SyscallResult result = device.TryAttach(entry.Hwpt.Id, out _);
            if (result.Errno == Errno.EINVAL)
                continue;
            result.ThrowIfFailed($"Attaching {device.Name} to HWPT {entry.Hwpt.Id}");
            entry.Add(device);
            return new Attachment(device, entry, hostIommu, DescribeLack(entry.Hwpt));
        }

        IommuHwptAllocFlags flags =
            caps.SupportsDirtyTracking ? IommuHwptAllocFlags.DirtyTracking : IommuHwptAllocFlags.None;
        HwptAllocation allocation = Hwpt.Allocate(Ioas, deviceId, flags);
        if (allocation.Hwpt is not { } hwpt)
            return AttachToIoas(device, hostIommu, DescribeRefusal(allocation.Refusal, flags));
        try
        {
            device.TryAttach(hwpt.Id, out _).ThrowIfFailed($"Attaching {device.Name} to its new HWPT {hwpt.Id}");
        }
        catch
        {
            // The device was not attached: nothing uses the new table, and the container is as before.
            hwpt.Dispose();
            throw;
        }

        var created = new ContainerHwpt(hwpt);
        created.Add(device);
        _hwpts.Insert(0, created);
        return new Attachment(device, created, hostIommu, DescribeLack(hwpt));
    }

    private Attachment AttachToIoas(VfioDevice device, HostIommuDevice? hostIommu, string lack)
    {
        device.TryAttach(Ioas.Id, out _).ThrowIfFailed($"Attaching {device.Name} to IOAS {Ioas.Id}");
        return new Attachment(device, entry: null, hostIommu, lack);
    }

    private static string? DescribeLack(Hwpt hwpt) => hwpt.HasDirtyTracking
        ? null
        : "no IOMMU tracking: the IOMMU before the device can not set dirty bits (no IOMMU_HW_CAP_DIRTY_TRACKING)";

    private static string DescribeRefusal(Errno refusal, IommuHwptAllocFlags flags) => refusal == Errno.ENOTTY
        ? "no IOMMU tracking: this kernel can not make page tables on request (IOMMU_HWPT_ALLOC answers ENOTTY)"
        : $"no IOMMU tracking: the kernel refused a page table with flags {flags} (IOMMU_HWPT_ALLOC answers {refusal})";

    private void Leave(ContainerHwpt entry, VfioDevice device)
    {
        entry.Remove(device);
        if (entry.Devices.Count != 0)
            return;
        _hwpts.Remove(entry);
        entry.Hwpt.Dispose();
    }

    private IReadOnlyList<IovaRange>? FindUsableIovas()
    {
        try
        {
            return Ioas.GetUsableIovas().Ranges;
        }
        catch (KernelException)
        {
            // Not knowing is an answer the caller has a rule for.
            return null;
        }
    }

    private void MapSlots(IReadOnlyList<MemorySlot> slots, KernelFd memoryFile, DmaAccess access)
    {
        ArgumentNullException.ThrowIfNull(memoryFile);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            UsableIovas usable = Ioas.GetUsableIovas();
            foreach (MemorySlot slot in slots)
            {
                IovaRange wanted = ToIdentity(slot);
                if (!usable.Contains(wanted))
                {
                    throw new KernelException(
                        $"Mapping guest memory {wanted} for DMA", Errno.EINVAL,
                        $"The attached devices can use only these IOVAs: {usable}. "
                        + "Lay guest memory out around what is missing there.");
                }
            }

            int mapped = 0;
            try
            {
                for (; mapped < slots.Count; mapped++)
                {
                    MemorySlot slot = slots[mapped];
                    Ioas.MapFile(
                        new Iova(slot.Start.Value), memoryFile, slot.FileOffset, slot.ByteLength, slot.Host, access,
                        slot.Start);
                }
            }
            catch
            {
                UndoMaps(slots, mapped);
                throw;
            }
        }
    }

    private void UndoMaps(IReadOnlyList<MemorySlot> slots, int count)
    {
        for (int index = count - 1; index >= 0; index--)
        {
            try
            {
                Ioas.Unmap(ToIdentity(slots[index]));
            }
            catch (KernelException)
            {
                // The address space still remembers the mapping, so it stays queried; the first failure is the one to
                // tell.
            }
        }
    }

    private static IovaRange ToIdentity(MemorySlot slot) =>
        IovaRange.FromLength(new Iova(slot.Start.Value), slot.ByteLength);
}
