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
/// The new table lies over the same IOAS (<see cref="Replace"/>), or over a second one with the same mappings, whose
/// leaves are of another size (<see cref="Rebuild"/>): a kernel never splits a leaf that is mapped, and a leaf is one
/// dirty unit.
/// </remarks>
public sealed partial class IommufdContainer
{
    /// <summary>Moves every device of a page table to a new one that is made like it. The entry stays the
    /// same.</summary>
    /// <param name="prepare">Called with the new table before the first device comes: switch tracking on here.</param>
    /// <param name="salvage">Called with the new table when the move failed and its devices are back on the old one:
    /// what it recorded meanwhile is nowhere else. It is disposed of afterwards.</param>
    /// <returns>The old table: it has no devices and belongs to the caller.</returns>
    /// <exception cref="KernelException">Refused; the devices are on the old table as before, or, where one can not go
    /// back either, blocked.</exception>
    public Hwpt Replace(ContainerHwpt entry, Action<Hwpt> prepare, Action<Hwpt> salvage)
    {
        ArgumentNullException.ThrowIfNull(entry);
        ArgumentNullException.ThrowIfNull(prepare);
        ArgumentNullException.ThrowIfNull(salvage);
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            if (!_hwpts.Contains(entry))
                throw new InvalidOperationException($"{entry.Hwpt} has no devices in this container.");
            Hwpt old = entry.Hwpt;
            Hwpt hwpt = AllocateLike(entry, Ioas);
            var moved = new List<(VfioDevice Device, uint From)>();
            try
            {
                prepare(hwpt);
                foreach (VfioDevice device in entry.Devices)
                    Move(device, old.Id, hwpt.Id, moved);
            }
            catch
            {
                // Back to the old table, which never stopped recording; then what the new one saw is taken along.
                MoveBack(moved);
                try
                {
                    if (moved.Count > 0)
                        salvage(hwpt);
                }
                finally
                {
                    hwpt.Dispose();
                }

                throw;
            }

            entry.Hwpt = hwpt;
            return old;
        }
    }

    /// <summary>
    /// Moves all devices to a second address space with the same mappings (IOMMU_IOAS_COPY), mapped with base pages
    /// only or with large leaves again. Every page table gets a successor made like it; the entries stay the same.
    /// </summary>
    /// <param name="hugePages">Whether the new tables may have large leaves.</param>
    /// <param name="prepare">Called with each new table before the first device comes: switch tracking on here if its
    /// predecessor's is on.</param>
    /// <param name="harvest">Called with each table that is about to be disposed of and may have recorded writes: the
    /// old ones after a success, the new ones after a failure. Must take the bits, or count everything as
    /// written.</param>
    /// <exception cref="KernelException">Refused; the devices are on the old tables and the old address space as before,
    /// or, where one can not go back either, blocked.</exception>
    public void Rebuild(bool hugePages, Action<ContainerHwpt, Hwpt> prepare, Action<Hwpt> harvest)
    {
        ArgumentNullException.ThrowIfNull(prepare);
        ArgumentNullException.ThrowIfNull(harvest);
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            Ioas old = Ioas;
            Ioas fresh = Iommufd.AllocateIoas();
            var tables = new List<(ContainerHwpt Entry, Hwpt Next)>();
            var moved = new List<(VfioDevice Device, uint From)>();
            try
            {
                // ORDER: the size of leaves is decided before there is anything to map.
                fresh.SetHugePages(hugePages);
                fresh.CopyFrom(old);
                foreach (ContainerHwpt entry in _hwpts)
                {
                    Hwpt next = AllocateLike(entry, fresh);
                    tables.Add((entry, next));
                    prepare(entry, next);
                }

                foreach (Attachment attachment in AttachmentsLocked)
                {
                    (ContainerHwpt? entry, Hwpt? next) = tables.Find(table => table.Entry == attachment.Entry);
                    Move(attachment.Device, entry?.Hwpt.Id ?? old.Id, next?.Id ?? fresh.Id, moved);
                }
            }
            catch
            {
                MoveBack(moved);
                try
                {
                    Retire([.. tables.Select(table => table.Next)], harvest);
                }
                finally
                {
                    fresh.Dispose();
                }

                throw;
            }

            Hwpt[] retired = [.. tables.Select(table => table.Entry.Hwpt)];
            foreach ((ContainerHwpt entry, Hwpt next) in tables)
                entry.Hwpt = next;
            Volatile.Write(ref _ioas, fresh);
            try
            {
                Retire(retired, harvest);
            }
            finally
            {
                old.Dispose();
            }
        }
    }

    private static Hwpt AllocateLike(ContainerHwpt entry, Ioas ioas)
    {
        HwptAllocation allocation = Hwpt.Allocate(ioas, entry.Devices[0].DeviceId!.Value, entry.Hwpt.Flags);
        return allocation.Hwpt
            ?? throw new KernelException($"Making a second page table like {entry.Hwpt}", allocation.Refusal);
    }

    private static void Move(VfioDevice device, uint from, uint to, List<(VfioDevice Device, uint From)> moved)
    {
        device.TryAttach(to, out _).ThrowIfFailed($"Moving {device.Name} from page table {from} to {to}");
        moved.Add((device, from));
    }

    private static void MoveBack(List<(VfioDevice Device, uint From)> moved)
    {
        foreach ((VfioDevice device, uint from) in moved)
        {
            // A device that can not go back must not go on writing through a table that nobody will read.
            if (!device.TryAttach(from, out _).Succeeded)
                device.TryDetach();
        }
    }

    private static void Retire(IReadOnlyList<Hwpt> tables, Action<Hwpt> harvest)
    {
        try
        {
            foreach (Hwpt table in tables.Where(table => table.IsTracking))
                harvest(table);
        }
        finally
        {
            foreach (Hwpt table in tables)
                table.Dispose();
        }
    }
}
