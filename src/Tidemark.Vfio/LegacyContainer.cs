using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>
/// Devices that see the same memory through VFIO's older interface: groups in a container with a type1 driver.
/// </summary>
/// <remarks>
/// <code>
/// /dev/vfio/vfio  container --SET_IOMMU (with its first group)--> type1v2: MAP_DMA, UNMAP_DMA, DIRTY_PAGES
///        ^ SET_CONTAINER
/// /dev/vfio/7     group     --GET_DEVICE_FD--> device            a group is opened with its first device
///                                                                and given back with its last
/// </code>
/// UAPI: vfio.h (VFIO_TYPE1v2_IOMMU). The only interface of kernels before 6.2, and of distributions that leave
/// iommufd out. Its dirty pages are not those of hardware: see <see cref="Type1Table"/>. A device's own log and its
/// migration states work here as they do with iommufd. <see cref="DmaContainer.Detach"/> closes the device, because its
/// group can not be given back before.
/// </remarks>
public sealed class LegacyContainer : DmaContainer
{
    /// <summary>The device node of the kernel's containers.</summary>
    public const string DefaultPath = "/dev/vfio/vfio";

    /// <summary>LIMIT: room for what a container tells about itself; real ones need a few hundred bytes.</summary>
    private const uint MaximumInfoLength = 1 << 20;

    private readonly KernelFd _container;
    private readonly List<Group> _groups = [];
    private readonly Lock _areasGate = new();
    private readonly AreaList _areas = new();

    private LegacyContainer(KernelFd container)
    {
        _container = container;
    }

    public override string Backend => "legacy";

    public override IReadOnlyList<MappedArea> Areas
    {
        get { lock (_areasGate) return _areas.Snapshot; }
    }

    /// <inheritdoc/>
    public override MappedArea[] FindAreas(IovaRange range)
    {
        lock (_areasGate)
            return _areas.FindOverlapping(range);
    }

    /// <inheritdoc/>
    public override bool Has(MappedArea area)
    {
        lock (_areasGate)
            return _areas.Has(area);
    }

    /// <summary>False: no hardware records dirty pages for type1.</summary>
    public override bool SupportsDirtyTracking => false;

    /// <summary>The container's bitmaps, or null before the first group, and on kernels without them (before
    /// 5.8).</summary>
    public Type1Table? Table { get; private set; }

    /// <summary>
    /// Whether the bitmaps report every mapped page at every read: so it is with any device that is not mediated.
    /// </summary>
    public bool ReportsEverything
    {
        get { lock (Gate) return AttachmentsLocked.Any(attachment => !attachment.Device.IsMdev); }
    }

    /// <summary>Opens a container.</summary>
    /// <exception cref="KernelException">This kernel has none, or it may not be opened.</exception>
    public static LegacyContainer Create(IKernel kernel)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        SyscallResult opened = kernel.Open(DefaultPath, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!opened.Succeeded)
        {
            throw new KernelException($"Opening {DefaultPath}", opened.Errno, opened.Errno switch
            {
                Errno.ENOENT or Errno.ENODEV => "The kernel has no VFIO containers (CONFIG_VFIO_CONTAINER), or the "
                    + "module is not loaded: modprobe vfio vfio_iommu_type1.",
                Errno.EACCES or Errno.EPERM => "Run as a user who may open it, or pass an open descriptor.",
                _ => null,
            });
        }

        var container = new KernelFd(kernel, checked((int)opened.Value));
        try
        {
            return FromFd(container);
        }
        catch
        {
            container.Dispose();
            throw;
        }
    }

    /// <summary>Uses a container that somebody else opened; it is closed with this object only if the handle owns
    /// it.</summary>
    /// <exception cref="KernelException">It is no container, or of another version, or without type1v2.</exception>
    public static LegacyContainer FromFd(KernelFd container)
    {
        ArgumentNullException.ThrowIfNull(container);
        IKernel kernel = container.Kernel;
        SyscallResult version = kernel.IoctlValue(container.Number, VfioRequests.GetApiVersion.Value, 0);
        version.ThrowIfFailed("Asking the VFIO container for its version");
        if (version.Value != 0)
            throw new KernelException($"Using a VFIO container of version {version.Value} (0 is known)", Errno.EINVAL);
        SyscallResult extension = kernel.IoctlValue(
            container.Number, VfioRequests.CheckExtension.Value, (ulong)VfioExtension.Type1V2);
        return extension is { Succeeded: true, Value: > 0 }
            ? new LegacyContainer(container)
            : throw new KernelException(
                "Looking for type1v2 in the VFIO container", Errno.EOPNOTSUPP,
                "Load the module: modprobe vfio_iommu_type1.");
    }

    /// <inheritdoc/>
    public override VfioDevice Open(ISysfs sysfs, string folder, string name)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        if (!sysfs.Exists(folder))
        {
            throw new KernelException(
                $"Looking for {name}", Errno.ENODEV, $"This host has no such device ({folder} does not exist).");
        }

        if (!sysfs.TryReadLink($"{folder}/iommu_group", out string? link))
        {
            throw new KernelException($"Looking for the IOMMU group of {name}", Errno.ENODEV,
                "It is in none: the host has no IOMMU before it, or it is switched off (intel_iommu=on, amd_iommu=on).");
        }

        int number = int.Parse(link[(link.LastIndexOf('/') + 1)..], CultureInfo.InvariantCulture);
        string address = folder[(folder.LastIndexOf('/') + 1)..];
        lock (Gate)
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            Group group = _groups.Find(known => known.Number == number) ?? Join(number, name);
            byte[] text = Encoding.ASCII.GetBytes($"{address}\0");
            SyscallResult opened = _container.Kernel.Ioctl(
                group.Fd.Number, VfioRequests.GroupGetDeviceFd.Value, text);
            if (!opened.Succeeded)
            {
                LeaveIfEmpty(group);
                throw new KernelException($"Opening {name} in group {number}", opened.Errno, opened.Errno switch
                {
                    Errno.ENODEV => "It is not bound to a VFIO driver: bind it to vfio-pci or its vendor's.",
                    Errno.EBUSY => "Somebody uses the device already.",
                    Errno.EACCES => "It is a virtual function whose physical function asks for a VF token.",
                    _ => null,
                });
            }

            var device = VfioDevice.FromFd(
                new KernelFd(_container.Kernel, checked((int)opened.Value)), name, VfioDiscovery.IsMdev(sysfs, folder));
            group.Devices.Add(device);
            return device;
        }
    }

    /// <inheritdoc/>
    public override UsableIovas GetUsableIovas() => ReadInfo().Usable;

    protected override Attachment AttachLocked(VfioDevice device, bool nestingParent)
    {
        if (nestingParent)
        {
            throw new KernelException($"Attaching {device.Name} for nested translation", Errno.EOPNOTSUPP,
                "type1 can not nest: use iommufd.");
        }

        HostIommuDevice? hostIommu = device.IsMdev
            ? null
            : new HostIommuDevice(device.Name, deviceId: 0, HostIommuCaps.Unknown, FindUsableIovas);
        string lack = device.IsMdev
            ? "no IOMMU tracking: a mediated device has no page table of its own"
            : "no IOMMU tracking: type1 does not use the dirty bits of IOMMUs";
        return new Attachment(device, entry: null, hostIommu, lack) { Type1 = Table };
    }

    protected override void DetachLocked(Attachment attachment, Action<IDirtyTable>? salvage)
    {
        VfioDevice device = attachment.Device;
        // ORDER: closing blocks the device's DMA, then its last bits are read, then its group goes, and with the last
        // group the bitmaps.
        device.Dispose();
        try
        {
            if (AttachmentsLocked.Count == 0 && Table is { IsTracking: true } table)
                salvage?.Invoke(table);
        }
        finally
        {
            GiveGroupBack(device);
        }
    }

    protected override void AbandonLocked(VfioDevice device)
    {
        if (!_groups.Exists(group => group.Devices.Contains(device)))
            return;
        device.Dispose();
        GiveGroupBack(device);
    }

    protected override void MapLocked(Iova iova, MemorySlot part, KernelFd memoryFile, DmaAccess access)
    {
        // A read of dirty pages must not cut a mapping, and has a limit: so nothing longer is mapped in one piece.
        ulong piece = Table?.MaximumReadLength ?? DirtyBuffer.ChunkLength;
        var made = new List<MappedArea>();
        try
        {
            for (ulong done = 0; done < part.ByteLength;)
            {
                ulong at = iova.Value + done;
                ulong length = Math.Min(part.ByteLength - done, piece - (at & (piece - 1)));
                made.Add(MapPiece(at, part, done, length, access));
                done += length;
            }
        }
        catch
        {
            foreach (MappedArea area in made)
                TryUnmap(area.Range);
            throw;
        }
    }

    protected override ulong UnmapLocked(IovaRange range, DirtyBuffer? buffer, PageBitmap? pages)
    {
        MappedArea[] inside = FindAreas(range);
        if (Array.Find(inside, area => !range.Contains(area.Range)) is { } cut)
            throw new ArgumentException($"Unmapping {range} would cut the mapping {cut.Range}.", nameof(range));
        ulong total = 0;
        foreach (MappedArea area in inside)
        {
            if (buffer is not null && pages is not null && area.CanDirtyGuest && Table is { IsTracking: true } table)
                table.UnmapDirty(area, buffer, pages);
            else
                UnmapPiece(area);
            lock (_areasGate)
                _areas.Remove([area]);
            total += area.Range.ByteLength;
        }

        return total;
    }

    protected override void Release(IReadOnlyList<Attachment> attachments)
    {
        foreach (Group group in _groups)
        {
            foreach (VfioDevice device in group.Devices)
                device.Dispose();
            group.Fd.Dispose();
        }

        _groups.Clear();
        lock (_areasGate)
            _areas.Clear();
        _container.Dispose();
    }

    private MappedArea MapPiece(ulong iova, MemorySlot part, ulong skipped, ulong length, DmaAccess access)
    {
        var area = new MappedArea(
            IovaRange.FromLength(new Iova(iova), length), access,
            new GuestPhysicalAddress(part.Start.Value + skipped));
        VfioDmaMapFlags flags = VfioDmaMapFlags.None;
        if ((access & DmaAccess.Read) != 0)
            flags |= VfioDmaMapFlags.Read;
        if ((access & DmaAccess.Write) != 0)
            flags |= VfioDmaMapFlags.Write;
        VfioIommuType1DmaMap map = VfioIommuType1DmaMap.Create(flags, iova, part.Host.Value + skipped, length);
        SyscallResult result = _container.Kernel.Ioctl(_container, ref map);
        if (StepEvents.Log.IsEnabled())
            StepEvents.Log.Type1Mapped(iova, length, part.Host.Value + skipped, access.ToString(), StepEvents.Outcome(result));
        if (!result.Succeeded)
        {
            throw new KernelException(
                $"Mapping {area} into the type1 container", result.Errno, MapRemedy.Find(result.Errno));
        }

        lock (_areasGate)
            _areas.Add(area);
        return area;
    }

    private void UnmapPiece(MappedArea area)
    {
        VfioIommuType1DmaUnmap unmap = VfioIommuType1DmaUnmap.Create(
            VfioDmaUnmapFlags.None, area.Range.First.Value, area.Range.ByteLength);
        SyscallResult result = _container.Kernel.Ioctl(_container, ref unmap);
        StepEvents.Log.Type1Unmapped(
            area.Range.First.Value, area.Range.ByteLength, withBitmap: false, StepEvents.Outcome(result));
        result.ThrowIfFailed($"Unmapping {area.Range} from the type1 container");
    }

    private Group Join(int number, string name)
    {
        string path = string.Create(CultureInfo.InvariantCulture, $"/dev/vfio/{number}");
        IKernel kernel = _container.Kernel;
        SyscallResult opened = kernel.Open(path, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!opened.Succeeded)
        {
            throw new KernelException($"Opening {path} for {name}", opened.Errno, opened.Errno switch
            {
                Errno.ENOENT => "The device is not bound to a VFIO driver, or the kernel has no groups "
                    + "(CONFIG_VFIO_GROUP).",
                Errno.EBUSY => "Somebody uses the group, or a device of it through iommufd.",
                Errno.EACCES or Errno.EPERM => $"Run as a user who may open {path}, or pass an open descriptor.",
                _ => null,
            });
        }

        var group = new Group(number, new KernelFd(kernel, checked((int)opened.Value)));
        try
        {
            VfioGroupStatus status = VfioGroupStatus.Create();
            kernel.Ioctl(group.Fd, ref status).ThrowIfFailed($"Asking group {number} for its state");
            if ((status.Flags & VfioGroupFlags.Viable) == 0)
            {
                throw new KernelException($"Using group {number} for {name}", Errno.EPERM,
                    "Another device of the group is bound to a driver of the host; bind all of them to VFIO drivers.");
            }

            Span<byte> argument = stackalloc byte[sizeof(int)];
            BinaryPrimitives.WriteInt32LittleEndian(argument, _container.Number);
            SyscallResult joined = kernel.Ioctl(group.Fd.Number, VfioRequests.GroupSetContainer.Value, argument);
            StepEvents.Log.GroupJoined((uint)number, StepEvents.Outcome(joined));
            if (!joined.Succeeded)
            {
                throw new KernelException($"Putting group {number} into the container", joined.Errno, joined.Errno switch
                {
                    Errno.EINVAL => "The group is in another container, or its IOMMU does not fit those of the others.",
                    Errno.EPERM => "Another device of the group is bound to a driver of the host; bind all of them to VFIO "
                        + "drivers.",
                    Errno.EBUSY => "A device of the group belongs to a driver of the kernel or of another user.",
                    _ => null,
                });
            }

            if (_groups.Count == 0)
                StartType1();
        }
        catch
        {
            // Closing the group takes it out of the container.
            group.Fd.Dispose();
            throw;
        }

        _groups.Add(group);
        return group;
    }

    private void StartType1()
    {
        _container.Kernel.IoctlValue(_container.Number, VfioRequests.SetIommu.Value, (ulong)VfioExtension.Type1V2)
            .ThrowIfFailed("Giving the container a type1 driver");
        Type1Info info = ReadInfo();
        // The bitmap's unit is the container's smallest page; larger units than ours would say too little.
        Table = info.DirtyPageSize == GuestPage.Size && info.MaximumBitmapLength != 0
            ? new Type1Table(_container, info.MaximumBitmapLength)
            : null;
    }

    private void GiveGroupBack(VfioDevice device)
    {
        if (_groups.Find(group => group.Devices.Remove(device)) is { } left)
            LeaveIfEmpty(left);
    }

    private void LeaveIfEmpty(Group group)
    {
        if (group.Devices.Count != 0)
            return;
        _groups.Remove(group);
        group.Fd.Dispose();
        if (_groups.Count != 0)
            return;
        // The driver went with its last group, and all mappings with it.
        lock (_areasGate)
            _areas.Clear();
        Table = null;
    }

    private Type1Info ReadInfo()
    {
        uint room = VfioIommuType1Info.StructSize;
        for (int attempt = 0; attempt < 4; attempt++)
        {
            byte[] argument = new byte[room];
            BinaryPrimitives.WriteUInt32LittleEndian(argument, room);
            _container.Kernel.Ioctl(_container.Number, VfioRequests.IommuGetInfo.Value, argument)
                .ThrowIfFailed("Asking the type1 container what it can do");
            uint needed = BinaryPrimitives.ReadUInt32LittleEndian(argument);
            if (needed <= room)
                return Type1Info.Parse(argument);
            if (needed > MaximumInfoLength)
                break;
            room = needed;
        }

        throw new KernelException("Asking the type1 container what it can do", Errno.E2BIG);
    }

    private sealed class Group(int number, KernelFd fd)
    {
        public int Number { get; } = number;

        public KernelFd Fd { get; } = fd;

        public List<VfioDevice> Devices { get; } = [];
    }
}
