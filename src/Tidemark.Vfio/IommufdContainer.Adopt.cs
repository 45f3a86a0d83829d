using Tidemark.Abi;
using Tidemark.Iommu;

namespace Tidemark.Vfio;

/// <summary>What another process must know to go on with a container: the kernel's ids, and what the kernel does not
/// tell.</summary>
/// <param name="Areas">All mappings, ascending.</param>
/// <param name="Hwpts">The page tables, newest first.</param>
/// <param name="Attachments">In the order of attaching.</param>
public sealed record ContainerSnapshot(
    uint IoasId, IReadOnlyList<MappedArea> Areas, IReadOnlyList<HwptSnapshot> Hwpts,
    IReadOnlyList<AttachmentSnapshot> Attachments);

/// <summary>A page table of a container.</summary>
public sealed record HwptSnapshot(uint Id, IommuHwptAllocFlags Flags);

/// <summary>A device of a container.</summary>
/// <param name="HwptId">The page table it is on, or null when it is attached to the address space itself.</param>
/// <param name="NoTrackingReason">As <see cref="Attachment.NoTrackingReason"/>.</param>
public sealed record AttachmentSnapshot(string Device, uint? HwptId, string? NoTrackingReason);

/// <summary>A container that goes from one process to another: devices, page tables and mappings stay as they are.</summary>
public sealed partial class IommufdContainer
{
    /// <summary>Describes what is here for the process that goes on with it.</summary>
    /// <exception cref="InvalidOperationException">A page table tracks, or one is left that could not be freed: what only
    /// this process knows of it would be lost.</exception>
    public ContainerSnapshot Describe()
    {
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            if (_abandoned.Count > 0 || _hwpts.Exists(entry => entry.Hwpt.IsTracking))
                throw new InvalidOperationException("A container can not be described while it tracks, or with a table that could not be freed.");
            return new ContainerSnapshot(
                Ioas.Id, Ioas.Areas, [.. _hwpts.Select(entry => new HwptSnapshot(entry.Hwpt.Id, entry.Hwpt.Flags))],
                [.. AttachmentsLocked.Select(attachment => new AttachmentSnapshot(
                    attachment.Device.Name, attachment.Entry?.Hwpt.Id, attachment.NoTrackingReason))]);
        }
    }

    /// <summary>Goes on with a container of another process, without a call that changes anything.</summary>
    /// <param name="devices">The snapshot's devices, in its order.</param>
    /// <exception cref="Kernel.KernelException">The kernel does not know a device id of the snapshot.</exception>
    /// <exception cref="InvalidDataException">The snapshot does not fit itself or the devices.</exception>
    public static IommufdContainer Adopt(Iommufd iommufd, ContainerSnapshot snapshot, IReadOnlyList<VfioDevice> devices)
    {
        ArgumentNullException.ThrowIfNull(snapshot);
        ArgumentNullException.ThrowIfNull(devices);
        if (!snapshot.Attachments.Select(attachment => attachment.Device).SequenceEqual(devices.Select(device => device.Name)))
            throw new InvalidDataException("The container to go on with has other devices than those that came with it.");
        var container = new IommufdContainer(Ioas.Adopt(iommufd, snapshot.IoasId, snapshot.Areas));
        foreach (HwptSnapshot table in snapshot.Hwpts)
            container._hwpts.Add(new ContainerHwpt(Hwpt.Adopt(container.Ioas, table.Id, table.Flags)));
        for (int index = 0; index < devices.Count; index++)
            container.AdoptAttachment(snapshot.Attachments[index], devices[index]);
        if (container._hwpts.Exists(entry => entry.Devices.Count == 0))
            throw new InvalidDataException("The container to go on with has a page table that no device uses.");
        return container;
    }

    private void AdoptAttachment(AttachmentSnapshot attachment, VfioDevice device)
    {
        uint deviceId = device.DeviceId ?? throw new InvalidDataException($"{device.Name} came without its id in the iommufd.");
        ContainerHwpt? entry = attachment.HwptId is { } id
            ? _hwpts.Find(table => table.Hwpt.Id == id)
                ?? throw new InvalidDataException($"{device.Name} is on HWPT {id}, which did not come with it.")
            : null;
        entry?.Add(device);
        HostIommuDevice? hostIommu = device.IsMdev
            ? null
            : new HostIommuDevice(device.Name, deviceId, Iommufd.GetHwInfo(deviceId), FindUsableIovas);
        Adopt(new Attachment(device, entry, hostIommu, attachment.NoTrackingReason));
    }
}
