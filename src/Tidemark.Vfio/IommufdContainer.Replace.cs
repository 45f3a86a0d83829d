using Tidemark.Iommu;
using Tidemark.Kernel;

namespace Tidemark.Vfio;

/// <remarks>
/// Moving devices to another page table over the same memory, while they work:
/// <code>
/// old, tracking                new: allocated, prepared (tracking on)
///   device A, B  --attach A--> A        a device's writes are recorded in the table it is attached to at the time,
///                --attach B--> A, B     so the dirty bits of both are needed until the old one has been read
/// old, no devices: read its bits, then dispose of it
/// </code>
/// </remarks>
public sealed partial class IommufdContainer
{
    /// <summary>Moves every device of a page table to a new one that is made like it.</summary>
    /// <param name="prepare">Called with the new table before the first device comes: switch tracking on here.</param>
    /// <param name="salvage">Called with the new table when the move failed and its devices are back on the old one:
    /// what it recorded meanwhile is nowhere else. It is disposed of afterwards.</param>
    /// <returns>The new entry. The old table has no devices, belongs to the caller, and is no longer among
    /// <see cref="Hwpts"/>.</returns>
    /// <exception cref="KernelException">Refused; the devices are on the old table as before.</exception>
    public ContainerHwpt Replace(ContainerHwpt old, Action<Hwpt> prepare, Action<Hwpt> salvage)
    {
        ArgumentNullException.ThrowIfNull(old);
        ArgumentNullException.ThrowIfNull(prepare);
        ArgumentNullException.ThrowIfNull(salvage);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            Attachment[] moving = [.. _attachments.Where(attachment => attachment.Entry == old)];
            if (moving.Length == 0)
                throw new InvalidOperationException($"{old.Hwpt} has no devices in this container.");
            HwptAllocation allocation = Hwpt.Allocate(Ioas, moving[0].Device.DeviceId!.Value, old.Hwpt.Flags);
            if (allocation.Hwpt is not { } hwpt)
                throw new KernelException($"Making a second page table like {old.Hwpt}", allocation.Refusal);
            int moved = 0;
            try
            {
                prepare(hwpt);
                for (; moved < moving.Length; moved++)
                {
                    moving[moved].Device.TryAttach(hwpt.Id, out _)
                        .ThrowIfFailed($"Moving {moving[moved].Device.Name} from {old.Hwpt} to {hwpt}");
                }
            }
            catch
            {
                // Back to the old table, which never stopped recording; then what the new one saw is taken along.
                for (int index = 0; index < moved; index++)
                    moving[index].Device.TryAttach(old.Hwpt.Id, out _).ThrowIfFailed($"Moving {moving[index].Device.Name} back to {old.Hwpt}");
                if (moved > 0)
                    salvage(hwpt);
                hwpt.Dispose();
                throw;
            }

            var created = new ContainerHwpt(hwpt);
            foreach (Attachment attachment in moving)
            {
                old.Remove(attachment.Device);
                created.Add(attachment.Device);
                attachment.Entry = created;
            }

            _hwpts[_hwpts.IndexOf(old)] = created;
            return created;
        }
    }
}
