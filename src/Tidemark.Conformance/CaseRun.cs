using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Conformance;

/// <summary>
/// A case while it runs: an iommufd of its own, memory, devices, and the duty to give all of it back. Things are made
/// when first asked for.
/// </summary>
internal sealed class CaseRun(ConformanceContext context) : IDisposable
{
    public const ulong Page = GuestPage.Size;

    /// <summary>
    /// Where cases map by default: inside the aperture of every IOMMU, also of the kernel's mock one.
    /// </summary>
    public const ulong Iova = 0x1000_0000;

    /// <summary>Pages of <see cref="Memory"/>.</summary>
    public const ulong MemoryPages = 16;

    public const IommuIoasMapFlags Fixed =
        IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable;

    public const IommuIoasMapFlags Anywhere = IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable;

    private readonly Stack<IDisposable> _owned = new();
    private readonly HashSet<string> _used = [];
    private KernelFd? _iommufd;
    private Mapping? _memory;
    private Mapping? _scratch;
    private BoundDevice? _device;
    private GroupSession? _group;
    private TestRig? _testDomain;
    private bool _usesTestDevices;
    private uint _ioas;

    public IKernel Kernel => context.Kernel;

    public KernelFd Iommufd => _iommufd ??= Own(context.OpenIommufd());

    /// <summary>The IOAS that most cases work on.</summary>
    public uint Ioas => _ioas == 0 ? _ioas = CreateIoas() : _ioas;

    /// <summary>Memory to map: <see cref="MemoryPages"/> pages.</summary>
    public Mapping Memory => _memory ??= CreateMemory(MemoryPages);

    public ulong MemoryAddress => Memory.Address.Value;

    /// <summary>Memory for lists and bitmaps that arguments point to: four pages.</summary>
    public Mapping Scratch => _scratch ??= CreateMemory(4);

    public ulong ScratchAddress => Scratch.Address.Value;

    /// <summary>An address at which nothing can be read, written or pinned.</summary>
    public static ulong BadAddress => 0xFFFF_8000_0000_0000;

    /// <summary>The device in use: the one last asked for with <see cref="Use"/>, or any.</summary>
    public BoundDevice Device => _device ??= Bind(DeviceNeed.Any);

    /// <summary>The group in use: the one last opened with <see cref="UseGroup"/>, or any, in a type1v2 container.</summary>
    public GroupSession Group => _group ??= GroupSession.InType1(this);

    /// <summary>Devices of the kernel's test domain stand in where no named device suits.</summary>
    public bool MayUseTestDevice { get; init; }

    public bool HasTestDomain => context.HasTestDomain;

    /// <summary>The test commands; ends the case as not applicable without them.</summary>
    public TestRig TestDomain => _testDomain ??= new TestRig(this);

    /// <summary>The data stream that the case's calls go to.</summary>
    public KernelFd? Stream { get; set; }

    /// <summary>Why the calls of this case are not the same each time; null: they are.</summary>
    public string? Unrepeatable { get; set; }

    public T Own<T>(T thing)
        where T : IDisposable
    {
        _owned.Push(thing);
        return thing;
    }

    public void Dispose()
    {
        while (_owned.TryPop(out IDisposable? thing))
            thing.Dispose();
    }

    /// <summary>Ends the case as not applicable.</summary>
    public static CaseEnded NotApplicable(string reason) => new(ConformanceVerdict.NotApplicable, reason);

    /// <summary>Ends the case as failed.</summary>
    public static CaseEnded Broken(string reason) => new(ConformanceVerdict.Failed, reason);

    /// <summary>Checks made. A case that passes without any has checked nothing.</summary>
    public int Checks { get; private set; }

    public void Answers(Errno actual, Errno expected, string what)
    {
        Checks++;
        if (actual != expected)
            throw Broken($"Expected {Name(expected)} from {what}; the kernel answered {Name(actual)}.");
    }

    public void Equal<T>(T expected, T actual, string what)
    {
        Checks++;
        if (!EqualityComparer<T>.Default.Equals(expected, actual))
            throw Broken($"Expected {what} to be {Show(expected)}; it is {Show(actual)}.");
    }

    public void Holds(bool condition, string what)
    {
        Checks++;
        if (!condition)
            throw Broken($"Expected {what}.");
    }

    /// <summary>A call on the iommufd that must answer just this.</summary>
    public void Answers<T>(ref T argument, Errno expected)
        where T : unmanaged, IIoctlArgument<T> =>
        Answers(Kernel.Ioctl(Iommufd, ref argument).Errno, expected, T.Request.Name);

    public void DeviceAnswers<T>(ref T argument, Errno expected)
        where T : unmanaged, IIoctlArgument<T> =>
        Answers(Kernel.Ioctl(Device.File, ref argument).Errno, expected, T.Request.Name);

    public Mapping CreateMemory(ulong pages) => Own(Mapping.CreateAnonymous(Kernel, pages * Page));

    /// <summary>
    /// Pages of a file and as many beyond its end: there the kernel can neither pin nor copy, and nobody else's memory
    /// can come to lie.
    /// </summary>
    public Mapping CreateHalfMapping(ulong pages) => Own(Mapping.CreateShared(
        CreateMemoryFile(pages * Page), 2 * pages * Page, 0, MemoryProtection.Read | MemoryProtection.Write));

    public KernelFd CreateMemoryFile(ulong byteLength)
    {
        KernelFd file = OwnFd(Kernel.MemfdCreate("tidemark-conform", MemfdFlags.CloseOnExec), "making a memory file");
        Answers(Kernel.Ftruncate(file.Number, byteLength).Errno, Errno.Success, "ftruncate");
        return file;
    }

    public KernelFd CreateEventfd() =>
        OwnFd(Kernel.Eventfd(0, EventfdFlags.NonBlocking | EventfdFlags.CloseOnExec), "making an eventfd");

    public KernelFd OwnFd(SyscallResult result, string what)
    {
        Answers(result.Errno, Errno.Success, what);
        return Own(new KernelFd(Kernel, (int)result.Value));
    }

    /// <summary>A further iommufd.</summary>
    public KernelFd OpenIommufd() => Own(context.OpenIommufd());

    public uint CreateIoas()
    {
        IommuIoasAlloc allocate = IommuIoasAlloc.Create();
        Answers(ref allocate, Errno.Success);
        return allocate.OutIoasId;
    }

    public Errno Destroy(uint id)
    {
        IommuDestroy destroy = IommuDestroy.Create(id);
        return Kernel.Ioctl(Iommufd, ref destroy).Errno;
    }

    /// <summary>Maps a part of <see cref="Memory"/> at a fixed IOVA of <see cref="Ioas"/>.</summary>
    public void Map(ulong iova, ulong byteLength, ulong offset = 0, uint ioas = 0) =>
        Answers(TryMap(iova, MemoryAddress + offset, byteLength, Fixed, ioas), Errno.Success, "mapping");

    public Errno TryMap(ulong iova, ulong address, ulong byteLength, IommuIoasMapFlags flags = Fixed, uint ioas = 0)
    {
        IommuIoasMap map = IommuIoasMap.Create(ioas == 0 ? Ioas : ioas, iova, address, byteLength, flags);
        return Kernel.Ioctl(Iommufd, ref map).Errno;
    }

    /// <summary>Maps a part of a file or dma-buf into <see cref="Ioas"/>, unless told otherwise.</summary>
    public Errno TryMapFile(
        KernelFd file, ulong iova, ulong byteLength, ulong start = 0, IommuIoasMapFlags flags = Fixed, uint ioas = 0)
    {
        IommuIoasMapFile map = IommuIoasMapFile.Create(
            ioas == 0 ? Ioas : ioas, iova, file.Number, start, byteLength, flags);
        return Kernel.Ioctl(Iommufd, ref map).Errno;
    }

    public Errno Unmap(ulong iova, ulong byteLength, out ulong unmapped, uint ioas = 0)
    {
        IommuIoasUnmap unmap = IommuIoasUnmap.Create(ioas == 0 ? Ioas : ioas, iova, byteLength);
        Errno errno = Kernel.Ioctl(Iommufd, ref unmap).Errno;
        unmapped = unmap.Length;
        return errno;
    }

    /// <summary>The usable IOVAs of an IOAS, and their alignment.</summary>
    public List<IommuIovaRange> Ranges(uint ioas, out ulong alignment)
    {
        const uint Room = 64;
        IommuIoasIovaRanges ranges = IommuIoasIovaRanges.Create(ioas, ScratchAddress, Room);
        Answers(ref ranges, Errno.Success);
        alignment = ranges.OutIovaAlignment;
        var list = new List<IommuIovaRange>();
        for (int index = 0; index < ranges.NumIovas; index++)
        {
            ReadOnlySpan<ulong> words = Scratch.Words(2 * (index + 1))[(2 * index)..];
            list.Add(new IommuIovaRange { Start = words[0], Last = words[1] });
        }

        return list;
    }

    /// <summary>Writes a list of ranges where <see cref="Scratch"/> begins.</summary>
    public void WriteRanges(params (ulong First, ulong Second)[] ranges)
    {
        Span<ulong> words = Scratch.Words(ranges.Length * 2);
        for (int index = 0; index < ranges.Length; index++)
            (words[2 * index], words[(2 * index) + 1]) = ranges[index];
    }

    public Errno Allow(uint ioas, params (ulong Start, ulong Last)[] ranges)
    {
        WriteRanges(ranges);
        IommuIoasAllowIovas allow = IommuIoasAllowIovas.Create(ioas, ScratchAddress, (uint)ranges.Length);
        return Kernel.Ioctl(Iommufd, ref allow).Errno;
    }

    public Errno SetHugePages(uint ioas, ulong value)
    {
        IommuOption option = IommuOption.Create(IommuOptionId.HugePages, IommuOptionOp.Set, ioas, value);
        return Kernel.Ioctl(Iommufd, ref option).Errno;
    }

    /// <summary>Binds a device to the case's iommufd and makes it <see cref="Device"/>.</summary>
    public BoundDevice Use(DeviceNeed need) => _device = Bind(need);

    /// <summary>Binds a device that this case has not used yet. Without one the case is not applicable.</summary>
    public BoundDevice Bind(DeviceNeed need)
    {
        DeviceProfile profile = Find(need);
        if (profile.IsTestDevice)
            return MakeTestDevice(profile);
        KernelFd file = OpenDevice(profile);
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(Iommufd.Number);
        Errno errno = Kernel.Ioctl(file, ref bind).Errno;
        if (errno is Errno.EPERM or Errno.EBUSY)
            throw NotApplicable($"Device {profile.Address} is in use elsewhere: binding it answered {errno}.");
        Answers(errno, Errno.Success, "VFIO_DEVICE_BIND_IOMMUFD");
        var device = new BoundDevice(this, profile, file, bind.OutDevid);
        // What a case left behind outlives its files in the driver of an mdev.
        if (profile.IsEmulated)
            device.Reset();
        return device;
    }

    /// <summary>A device that this case has not used yet.</summary>
    public DeviceProfile Find(DeviceNeed need)
    {
        if (!context.HasIommufd)
            Own(context.OpenIommufd());
        foreach (DeviceProfile candidate in _usesTestDevices ? [] : context.Devices)
        {
            if (candidate.Problem is null && need.IsMetBy(candidate) && _used.Add(candidate.Address))
                return candidate;
        }

        // The two kinds share no page table, so a case has devices of one kind.
        if (MayUseTestDevice && HasTestDomain && _used.Count == 0
            && DeviceProfile.TestDevices.FirstOrDefault(need.IsMetBy) is DeviceProfile testDevice)
        {
            _usesTestDevices = true;
            return testDevice;
        }

        string? problem = context.Devices.FirstOrDefault(candidate => candidate.Problem is not null)?.Problem;
        throw NotApplicable(
            $"Needs {(_used.Count == 0 ? "a" : "a further")} device {need.Text}; name one with --device."
            + (problem is null ? "" : $" {problem}"));
    }

    /// <summary>Makes an opened group <see cref="Group"/>.</summary>
    public GroupSession UseGroup(GroupSession session) => _group = session;

    private BoundDevice MakeTestDevice(DeviceProfile profile)
    {
        uint parking = CreateIoas();
        TestDevice device = TestDomain.CreateDevice(
            parking, profile.IommuTracks ? TestDeviceFlags.None : TestDeviceFlags.NoDirtyTracking);
        return new BoundDevice(this, profile, file: null, device.DeviceId) { Test = (device, parking) };
    }

    /// <summary>An unbound file of a device.</summary>
    public KernelFd OpenDevice(DeviceProfile profile)
    {
        SyscallResult opened = Kernel.Open(profile.Node, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        return opened.Succeeded
            ? Own(new KernelFd(Kernel, (int)opened.Value))
            : throw NotApplicable($"Device {profile.Address} can not be opened: {opened.Errno}.");
    }

    public uint AllocateHwpt(BoundDevice device, IommuHwptAllocFlags flags = IommuHwptAllocFlags.None, uint ioas = 0)
    {
        Answers(TryAllocateHwpt(device, flags, out uint id, ioas), Errno.Success, "IOMMU_HWPT_ALLOC");
        return id;
    }

    public Errno TryAllocateHwpt(BoundDevice device, IommuHwptAllocFlags flags, out uint id, uint ioas = 0)
    {
        IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.Id, flags, ioas == 0 ? Ioas : ioas);
        Errno errno = Kernel.Ioctl(Iommufd, ref allocate).Errno;
        id = allocate.OutHwptId;
        return errno;
    }

    /// <summary>
    /// Ends the case as not applicable where a page table for <see cref="Device"/> takes every address of 64 bits (AMD's
    /// can), so that none is out of its reach.
    /// </summary>
    public void RequireUnreachableIovas()
    {
        uint ioas = CreateIoas();
        uint hwpt = AllocateHwpt(Device, ioas: ioas);
        bool whole = Ranges(ioas, out _)[^1].Last == ulong.MaxValue;
        Answers(Destroy(hwpt), Errno.Success, "IOMMU_DESTROY");
        if (whole)
            throw NotApplicable($"Page tables for {Device.Profile.Address} take every IOVA of 64 bits.");
    }

    private static string Name(Errno errno) => errno == Errno.Success ? "success" : errno.ToString();

    private static string Show<T>(T value) => value is ulong or uint ? $"0x{value:x}" : $"{value}";
}
