using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>
/// Devices that see the same memory through IOVAs, whichever of the kernel's two interfaces they were opened by.
/// </summary>
/// <remarks>
/// <code>
///                         DmaContainer
///                        /            \
///      IommufdContainer                LegacyContainer
///      /dev/iommu, one IOAS, a         /dev/vfio/vfio, groups, type1: one address space,
///      page table for each kind        one bitmap for all devices, no dirty bits of hardware
///      of IOMMU, real dirty bits
///
/// Open ---> Attach ---> (Map, Unmap, dirty tracking) ---> Detach
/// </code>
/// Attach devices before memory is mapped: then the mappings are checked against what the devices can reach. Members
/// are serialised. <see cref="Areas"/> is exactly what is mapped, after success and after failure of every member.
/// </remarks>
public abstract class DmaContainer : IDisposable
{
    private readonly List<Attachment> _attachments = [];

    /// <summary>Serialises the members.</summary>
    protected Lock Gate { get; } = new();

    /// <summary>Which of the kernel's interfaces it is, for users: <c>iommufd</c> or <c>legacy</c>.</summary>
    public abstract string Backend { get; }

    /// <summary>All mappings, ascending by IOVA. A list that was handed out does not change.</summary>
    public abstract IReadOnlyList<MappedArea> Areas { get; }

    /// <summary>The mappings that have a byte in a range, ascending; without a copy of all the others.</summary>
    public abstract MappedArea[] FindAreas(IovaRange range);

    /// <summary>Whether exactly this mapping is still there, not one like it that was made later.</summary>
    public abstract bool Has(MappedArea area);

    /// <summary>Whether anything here records dirty pages by hardware now; computed at each call, so that it ends with
    /// the last such table.</summary>
    public abstract bool SupportsDirtyTracking { get; }

    /// <summary>What is attached, in the order of attaching.</summary>
    public IReadOnlyList<Attachment> Attachments
    {
        get { lock (Gate) return [.. _attachments]; }
    }

    /// <summary>Whether it was disposed of; read under <see cref="Gate"/>.</summary>
    protected bool IsDisposed { get; private set; }

    /// <summary>Opens a device by its folder under <c>/sys</c>, in the way that this container needs.</summary>
    /// <param name="name">What users call it.</param>
    /// <exception cref="KernelException">It can not be opened; the remedy says what to do. Nothing
    /// changed.</exception>
    public abstract VfioDevice Open(ISysfs sysfs, string folder, string name);

    /// <summary>Attaches a device.</summary>
    /// <param name="nestingParent">Its page table will be the parent of a guest's own (nested translation).</param>
    /// <exception cref="KernelException">It could not be attached; container and device are as before.</exception>
    public Attachment Attach(VfioDevice device, bool nestingParent = false)
    {
        ArgumentNullException.ThrowIfNull(device);
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            if (_attachments.Exists(other => other.Device == device))
                throw new InvalidOperationException($"{device.Name} is attached already.");
            Attachment attachment = AttachLocked(device, nestingParent);
            _attachments.Add(attachment);
            return attachment;
        }
    }

    /// <summary>
    /// Detaches a device; its DMA is blocked then. The last device of a page table takes it along. A device that was
    /// opened here and never attached is given back; nothing happens to one that was not.
    /// </summary>
    /// <param name="salvage">
    /// Called with a tracking table that is about to go, when no device can write through it any more: its dirty bits
    /// are the only record of the last writes.
    /// </param>
    /// <exception cref="KernelException">The kernel refused; the device is forgotten here all the same.</exception>
    public void Detach(VfioDevice device, Action<IDirtyTable>? salvage = null)
    {
        lock (Gate)
        {
            Attachment? attachment = _attachments.Find(other => other.Device == device);
            if (attachment is null)
            {
                AbandonLocked(device);
                return;
            }

            _attachments.Remove(attachment);
            DetachLocked(attachment, salvage);
        }
    }

    /// <summary>Maps part of guest memory at any IOVA.</summary>
    /// <param name="part">A part of one slot: the whole of it becomes mapped, in as few areas as the interface
    /// allows.</param>
    /// <param name="memoryFile">The file that holds guest memory.</param>
    /// <exception cref="KernelException">Refused; nothing of this call is mapped.</exception>
    public void Map(Iova iova, MemorySlot part, KernelFd memoryFile, DmaAccess access = DmaAccess.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(memoryFile);
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            MapLocked(iova, part, memoryFile, access);
        }
    }

    /// <summary>
    /// Unmaps every mapping inside the range, lowest first, without a look at dirty bits.
    /// </summary>
    /// <returns>Bytes unmapped; 0 when nothing was mapped there.</returns>
    /// <exception cref="ArgumentException">The range cuts a mapping; nothing changed.</exception>
    /// <exception cref="KernelException">The kernel refused one; the lower ones are gone, it and the higher ones
    /// remain.</exception>
    public ulong Unmap(IovaRange range)
    {
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            return UnmapLocked(range, buffer: null, pages: null);
        }
    }

    /// <summary>
    /// As <see cref="Unmap(IovaRange)"/>, and adds to <paramref name="pages"/> what the tables that track have recorded
    /// for the mappings that go. Where a table can not tell, the whole mapping is added: no page is lost.
    /// </summary>
    public ulong Unmap(IovaRange range, DirtyBuffer buffer, PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        ArgumentNullException.ThrowIfNull(pages);
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            return UnmapLocked(range, buffer, pages);
        }
    }

    /// <summary>Asks which IOVAs can be used now. Attaching a device can shrink the answer.</summary>
    /// <exception cref="KernelException">The kernel failed.</exception>
    public abstract UsableIovas GetUsableIovas();

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
        MapSlots([memory.Cut(start, byteLength)], memoryFile, access);
    }

    /// <summary>
    /// Leaves everything in the kernel as it is, for the process that goes on with it: nothing is detached, unmapped or
    /// freed, here or by <see cref="Dispose"/>. Never throws.
    /// </summary>
    public void Relinquish()
    {
        lock (Gate)
        {
            IsDisposed = true;
            _attachments.Clear();
        }
    }

    /// <summary>Detaches what is still attached and frees everything. Never throws.</summary>
    public void Dispose()
    {
        lock (Gate)
        {
            if (IsDisposed)
                return;
            IsDisposed = true;
            Attachment[] attachments = [.. _attachments];
            _attachments.Clear();
            Release(attachments);
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Remembers an attachment that another process made.</summary>
    private protected void Adopt(Attachment attachment)
    {
        lock (Gate)
            _attachments.Add(attachment);
    }

    /// <summary>Attaches under the gate; the base remembers the result.</summary>
    protected abstract Attachment AttachLocked(VfioDevice device, bool nestingParent);

    /// <summary>Detaches under the gate what the base has forgotten already.</summary>
    protected abstract void DetachLocked(Attachment attachment, Action<IDirtyTable>? salvage);

    /// <summary>Gives back, under the gate, what opening a device took that was not attached. Never throws.</summary>
    protected abstract void AbandonLocked(VfioDevice device);

    /// <summary>Maps under the gate; all or nothing.</summary>
    protected abstract void MapLocked(Iova iova, MemorySlot part, KernelFd memoryFile, DmaAccess access);

    /// <summary>Unmaps under the gate; collects dirty pages when there is somewhere to put them.</summary>
    protected abstract ulong UnmapLocked(IovaRange range, DirtyBuffer? buffer, PageBitmap? pages);

    /// <summary>Frees everything; never throws.</summary>
    protected abstract void Release(IReadOnlyList<Attachment> attachments);

    /// <summary>The attachments, under the gate.</summary>
    private protected IReadOnlyList<Attachment> AttachmentsLocked => _attachments;

    /// <summary>The usable IOVAs as a virtual IOMMU asks for them: null when they can not be had.</summary>
    private protected IReadOnlyList<IovaRange>? FindUsableIovas()
    {
        try
        {
            return GetUsableIovas().Ranges;
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
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            UsableIovas usable = GetUsableIovas();
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
                    MapLocked(new Iova(slots[mapped].Start.Value), slots[mapped], memoryFile, access);
            }
            catch
            {
                for (int index = mapped - 1; index >= 0; index--)
                    TryUnmap(ToIdentity(slots[index]));
                throw;
            }
        }
    }

    /// <summary>Takes a mapping back after a failure, under the gate.</summary>
    private protected void TryUnmap(IovaRange range)
    {
        try
        {
            UnmapLocked(range, buffer: null, pages: null);
        }
        catch (KernelException)
        {
            // It is still remembered, so it stays queried; the first failure is the one to tell.
        }
    }

    private static IovaRange ToIdentity(MemorySlot slot) =>
        IovaRange.FromLength(new Iova(slot.Start.Value), slot.ByteLength);
}
