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
/// </remarks>
public sealed partial class IommufdContainer : DmaContainer
{
    private readonly List<ContainerHwpt> _hwpts = [];

    /// <summary>Tables whose last device could not be detached: they can not be destroyed before it is
    /// closed.</summary>
    private readonly List<Hwpt> _abandoned = [];
    private Ioas _ioas;

    private IommufdContainer(Ioas ioas)
    {
        _ioas = ioas;
    }

    public override string Backend => "iommufd";

    /// <summary>The address space; another one after <see cref="Rebuild"/>.</summary>
    public Ioas Ioas => Volatile.Read(ref _ioas);

    public Iommufd Iommufd => Ioas.Iommufd;

    public override IReadOnlyList<MappedArea> Areas => Ioas.Areas;

    /// <inheritdoc/>
    public override MappedArea[] FindAreas(IovaRange range) => Ioas.FindAreas(range);

    /// <inheritdoc/>
    public override bool Has(MappedArea area) => Ioas.Has(area);

    /// <summary>The page tables, newest first.</summary>
    public IReadOnlyList<ContainerHwpt> Hwpts
    {
        get { lock (Gate) return [.. _hwpts]; }
    }

    public override bool SupportsDirtyTracking
    {
        get { lock (Gate) return _hwpts.Exists(entry => entry.Hwpt.HasDirtyTracking); }
    }

    /// <exception cref="KernelException">There is no address space to be had.</exception>
    public static IommufdContainer Create(Iommufd iommufd)
    {
        ArgumentNullException.ThrowIfNull(iommufd);
        return new IommufdContainer(iommufd.AllocateIoas());
    }

    /// <inheritdoc/>
    public override VfioDevice Open(ISysfs sysfs, string folder, string name)
    {
        VfioDevice device = VfioDevice.OpenFolder(Iommufd.Kernel, sysfs, folder, name);
        try
        {
            device.BindIommufd(Iommufd);
            return device;
        }
        catch
        {
            device.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override UsableIovas GetUsableIovas() => Ioas.GetUsableIovas();

    protected override Attachment AttachLocked(VfioDevice device, bool nestingParent)
    {
        uint deviceId = device.DeviceId
            ?? throw new InvalidOperationException(
                $"{device.Name} must be bound to the iommufd before it is attached.");
        return device.IsMdev
            ? AttachToIoas(device, hostIommu: null,
                "no IOMMU tracking: a mediated device has no page table of its own")
            : AttachToPageTable(device, deviceId, nestingParent);
    }

    protected override void DetachLocked(Attachment attachment, Action<IDirtyTable>? salvage)
    {
        SyscallResult result = attachment.Device.TryDetach();
        if (attachment.Entry is { } entry)
            Leave(entry, attachment.Device, salvage, result.Succeeded);
        result.ThrowIfFailed($"Detaching {attachment.Device.Name}");
    }

    protected override void AbandonLocked(VfioDevice device)
    {
        // A device that is only bound has nothing of this container: closing it unbinds it.
    }

    protected override void MapLocked(Iova iova, MemorySlot part, KernelFd memoryFile, DmaAccess access) =>
        Ioas.MapFile(iova, memoryFile, part.FileOffset, part.ByteLength, part.Host, access, part.Start);

    protected override ulong UnmapLocked(IovaRange range, DirtyBuffer? buffer, PageBitmap? pages)
    {
        if (buffer is null || pages is null)
            return Ioas.Unmap(range);
        MappedArea[] inside = Ioas.FindAreas(range);
        // Refuses a range that cuts a mapping before anything is gone.
        if (Array.Exists(inside, area => !range.Contains(area.Range)))
            return Ioas.Unmap(range);
        ulong total = 0;
        foreach (MappedArea area in inside)
        {
            // ORDER: look, then unmap: the bits go with the mapping. NO_CLEAR because nobody pays for clearing, and
            // flushing, what is about to go.
            // LIMIT: a write between the two is lost. A guest takes memory from a device when the device is done with
            // it, so that write would race with the guest's own use of the page.
            foreach (ContainerHwpt entry in _hwpts)
                Peek(entry.Hwpt, area, buffer, pages);
            total += Ioas.Unmap(area.Range);
        }

        return total;
    }

    protected override void Release(IReadOnlyList<Attachment> attachments)
    {
        for (int index = attachments.Count - 1; index >= 0; index--)
        {
            if (!attachments[index].Device.Fd.IsClosed)
                attachments[index].Device.TryDetach();
        }

        foreach (ContainerHwpt entry in _hwpts)
            entry.Hwpt.Dispose();
        foreach (Hwpt hwpt in _abandoned)
            hwpt.Dispose();
        _hwpts.Clear();
        _abandoned.Clear();
        Ioas.Dispose();
    }

    private static void Peek(Hwpt hwpt, MappedArea area, DirtyBuffer buffer, PageBitmap pages)
    {
        if (!hwpt.IsTracking || !area.CanDirtyGuest)
            return;
        try
        {
            hwpt.PeekDirty(area, buffer, pages);
        }
        catch (KernelException)
        {
            // What can not be read counts as written: the mapping goes all the same, because the guest wants it gone.
            pages.SetRange(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift);
        }
    }

    private Attachment AttachToPageTable(VfioDevice device, uint deviceId, bool nestingParent)
    {
        HostIommuCaps caps = Iommufd.GetHwInfo(deviceId);
        var hostIommu = new HostIommuDevice(device.Name, deviceId, caps, FindUsableIovas);
        foreach (ContainerHwpt entry in _hwpts)
        {
            // A device whose IOMMU can track would fit into a plain table too, and its writes would go unseen.
            if (caps.SupportsDirtyTracking && !entry.Hwpt.HasDirtyTracking)
                continue;
            if (nestingParent && (entry.Hwpt.Flags & IommuHwptAllocFlags.NestParent) == 0)
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
        if (nestingParent)
            flags |= IommuHwptAllocFlags.NestParent;
        HwptAllocation allocation = Hwpt.Allocate(Ioas, deviceId, flags);
        string? refusal = allocation.Hwpt is null ? DescribeRefusal(allocation.Refusal, flags) : null;
        if (allocation.Hwpt is null && flags == (IommuHwptAllocFlags.NestParent | IommuHwptAllocFlags.DirtyTracking))
        {
            // A guest that translates by itself can do without its host's dirty bits, but not without a parent.
            allocation = Hwpt.Allocate(Ioas, deviceId, IommuHwptAllocFlags.NestParent);
        }

        if (allocation.Hwpt is not { } hwpt)
        {
            return nestingParent
                ? throw new KernelException(
                    $"Making a page table that can be the parent of a guest's own for {device.Name}",
                    allocation.Refusal, "Give the machine a virtual IOMMU without nested translation.")
                : AttachToIoas(device, hostIommu, refusal!);
        }

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
        return new Attachment(device, created, hostIommu, refusal ?? DescribeLack(hwpt));
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

    private void Leave(ContainerHwpt entry, VfioDevice device, Action<IDirtyTable>? salvage, bool isDetached)
    {
        entry.Remove(device);
        if (entry.Devices.Count != 0)
            return;
        _hwpts.Remove(entry);
        try
        {
            if (entry.Hwpt.IsTracking)
                salvage?.Invoke(entry.Hwpt);
        }
        finally
        {
            if (isDetached)
                entry.Hwpt.Dispose();
            else
                _abandoned.Add(entry.Hwpt);
        }
    }
}
