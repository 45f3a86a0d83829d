using System.Buffers.Binary;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance;

/// <summary>
/// A device's group, opened by a case, and the container it is in: VFIO's older interface. The case owns the
/// descriptors.
/// </summary>
internal sealed class GroupSession
{
    private const string ContainerPath = "/dev/vfio/vfio";

    private readonly CaseRun _run;

    private GroupSession(CaseRun run, DeviceProfile profile, KernelFd group)
    {
        _run = run;
        Profile = profile;
        Group = group;
    }

    public DeviceProfile Profile { get; }

    public KernelFd Group { get; }

    /// <summary>What the group is in; set by <see cref="Join"/>.</summary>
    public KernelFd Container { get; private set; } = null!;

    /// <summary>The number of an open container. Not applicable where there is none of VFIO's own.</summary>
    public static KernelFd OpenContainer(CaseRun run)
    {
        SyscallResult opened = run.Kernel.Open(ContainerPath, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!opened.Succeeded)
            throw CaseRun.NotApplicable($"This kernel has no VFIO container: {ContainerPath} answered {opened.Errno}.");
        KernelFd container = run.Own(new KernelFd(run.Kernel, (int)opened.Value));
        VfioIommuType1Info info = VfioIommuType1Info.Create();
        return run.Kernel.Ioctl(container, ref info).Errno == Errno.ENODEV
            ? throw CaseRun.NotApplicable($"{ContainerPath} is iommufd's imitation of a container.")
            : container;
    }

    /// <summary>Opens the group of a device that this case has not used yet.</summary>
    public static GroupSession Open(CaseRun run, DeviceNeed? need = null)
    {
        DeviceProfile profile = run.Find(need ?? DeviceNeed.InGroup);
        SyscallResult opened = TryOpen(run, profile);
        return opened.Succeeded
            ? new GroupSession(run, profile, run.Own(new KernelFd(run.Kernel, (int)opened.Value)))
            : throw CaseRun.NotApplicable($"Group {profile.GroupNode} can not be opened: {opened.Errno}.");
    }

    /// <summary>A group in a container of its own with a type1 driver.</summary>
    public static GroupSession InType1(
        CaseRun run, VfioExtension type = VfioExtension.Type1V2, DeviceNeed? need = null)
    {
        GroupSession session = Open(run, need);
        session.Join(OpenContainer(run));
        run.Answers(session.SetIommu((ulong)type), Errno.Success, $"VFIO_SET_IOMMU {type}");
        return session;
    }

    public static SyscallResult TryOpen(CaseRun run, DeviceProfile profile) =>
        run.Kernel.Open(profile.GroupNode!, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);

    /// <summary>Puts the group into a container or on an iommufd.</summary>
    public void Join(KernelFd container)
    {
        Errno errno = TryJoin(container.Number);
        if (errno is Errno.EPERM or Errno.EBUSY)
            throw CaseRun.NotApplicable($"Group {Profile.GroupNode} is in use elsewhere: SET_CONTAINER was {errno}.");
        _run.Answers(errno, Errno.Success, "VFIO_GROUP_SET_CONTAINER");
        Container = container;
    }

    public Errno TryJoin(int container)
    {
        byte[] argument = new byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(argument, container);
        return _run.Kernel.Ioctl(Group.Number, VfioRequests.GroupSetContainer.Value, argument).Errno;
    }

    public Errno Leave() =>
        _run.Kernel.IoctlValue(Group.Number, VfioRequests.GroupUnsetContainer.Value, 0).Errno;

    public VfioGroupFlags Status()
    {
        VfioGroupStatus status = VfioGroupStatus.Create();
        _run.Answers(_run.Kernel.Ioctl(Group, ref status).Errno, Errno.Success, "VFIO_GROUP_GET_STATUS");
        return status.Flags;
    }

    public Errno SetIommu(ulong type) =>
        _run.Kernel.IoctlValue(Container.Number, VfioRequests.SetIommu.Value, type).Errno;

    public long Extension(VfioExtension extension) =>
        _run.Kernel.IoctlValue(Container.Number, VfioRequests.CheckExtension.Value, (ulong)extension).Value;

    /// <summary>The device by name; its file belongs to the case.</summary>
    public KernelFd OpenDevice() => _run.OwnFd(TryOpenDevice(Profile.Address), "VFIO_GROUP_GET_DEVICE_FD");

    public SyscallResult TryOpenDevice(string name) => _run.Kernel.Ioctl(
        Group.Number, VfioRequests.GroupGetDeviceFd.Value, Encoding.ASCII.GetBytes($"{name}\0"));

    /// <summary>A driver of the device, if it is an NVMe controller, whose queues lie in the container.</summary>
    public NvmeWriter StartWriter(uint slot = 0) => NvmeWriter.Start(
        _run, new BoundDevice(_run, Profile, OpenDevice(), id: 0),
        (iova, memory) => TryMap(iova, memory.Address.Value, memory.ByteLength), slot);

    public void Map(ulong iova, ulong byteLength, ulong offset = 0) => _run.Answers(
        TryMap(iova, _run.MemoryAddress + offset, byteLength), Errno.Success, "VFIO_IOMMU_MAP_DMA");

    public Errno TryMap(
        ulong iova, ulong address, ulong byteLength, VfioDmaMapFlags flags = VfioDmaMapFlags.Read | VfioDmaMapFlags.Write)
    {
        VfioIommuType1DmaMap map = VfioIommuType1DmaMap.Create(flags, iova, address, byteLength);
        return _run.Kernel.Ioctl(Container, ref map).Errno;
    }

    public Errno Unmap(
        ulong iova, ulong byteLength, out ulong unmapped, VfioDmaUnmapFlags flags = VfioDmaUnmapFlags.None)
    {
        VfioIommuType1DmaUnmap unmap = VfioIommuType1DmaUnmap.Create(flags, iova, byteLength);
        Errno errno = _run.Kernel.Ioctl(Container, ref unmap).Errno;
        unmapped = unmap.Size;
        return errno;
    }

    /// <summary>Unmaps and expects just so many bytes.</summary>
    public void Unmap(ulong iova, ulong byteLength, ulong expected)
    {
        _run.Answers(Unmap(iova, byteLength, out ulong unmapped), Errno.Success, "VFIO_IOMMU_UNMAP_DMA");
        _run.Equal(expected, unmapped, "what was unmapped");
    }

    public ContainerInfo Info(uint room = 4096)
    {
        ContainerInfo info = ContainerInfo.Read(_run.Kernel, Container, room, out Errno errno);
        _run.Answers(errno, Errno.Success, "VFIO_IOMMU_GET_INFO");
        return info;
    }

    /// <summary>The first page that lies above every IOVA that can be mapped.</summary>
    public ulong FirstBeyond()
    {
        ulong last = Info().Ranges()[^1].Last;
        return last == ulong.MaxValue
            ? throw CaseRun.NotApplicable("Every IOVA of this host can be mapped.")
            : last + 1;
    }
}

/// <summary>What IOMMU_GET_INFO answered, to the byte.</summary>
internal sealed class ContainerInfo(byte[] bytes)
{
    public const int HeaderLength = (int)VfioIommuType1Info.StructSize;

    public byte[] Bytes => bytes;

    public uint Argsz => Word(0);

    public uint Flags => Word(4);

    public ulong PageSizes => Long(8);

    public uint CapOffset => Word(16);

    /// <param name="room">argsz; the argument has room for a page at least, filled with 0xA5.</param>
    public static ContainerInfo Read(IKernel kernel, KernelFd container, uint room, out Errno errno)
    {
        byte[] argument = new byte[Math.Max(room, 4096)];
        argument.AsSpan().Fill(0xA5);
        BinaryPrimitives.WriteUInt32LittleEndian(argument, room);
        errno = kernel.Ioctl(container.Number, VfioRequests.IommuGetInfo.Value, argument).Errno;
        return new ContainerInfo(argument);
    }

    /// <summary>The capabilities in the order of the chain: id, version, and where it lies.</summary>
    public List<(VfioIommuType1InfoCapId Id, ushort Version, int Offset)> Chain()
    {
        var chain = new List<(VfioIommuType1InfoCapId, ushort, int)>();
        for (uint at = CapOffset; at != 0 && at < bytes.Length - 8 && chain.Count < 8; at = Word((int)at + 4))
        {
            ReadOnlySpan<byte> header = bytes.AsSpan((int)at);
            chain.Add(((VfioIommuType1InfoCapId)BinaryPrimitives.ReadUInt16LittleEndian(header),
                BinaryPrimitives.ReadUInt16LittleEndian(header[2..]), (int)at));
        }

        return chain;
    }

    public int Find(VfioIommuType1InfoCapId id)
    {
        foreach ((VfioIommuType1InfoCapId found, _, int offset) in Chain())
        {
            if (found == id)
                return offset;
        }

        throw CaseRun.Broken($"Expected capability {id}; there is none.");
    }

    public List<(ulong First, ulong Last)> Ranges()
    {
        int at = Find(VfioIommuType1InfoCapId.IovaRange);
        var ranges = new List<(ulong, ulong)>();
        for (int index = 0; index < Word(at + 8); index++)
            ranges.Add((Long(at + 16 + (16 * index)), Long(at + 24 + (16 * index))));
        return ranges;
    }

    public uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(offset));

    public ulong Long(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(offset));
}
