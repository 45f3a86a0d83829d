using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>
/// A soft kernel with two devices behind an IOMMU that tracks and one behind one that does not, an iommufd, and short
/// ways to call it. Every call answers the errno.
/// </summary>
internal sealed class IommufdFixture : IDisposable
{
    public const string Tracking = "0000:01:00.0";
    public const string TrackingToo = "0000:02:00.0";
    public const string Plain = "0000:03:00.0";

    public const IommuIoasMapFlags Writable =
        IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable;

    private readonly List<Mapping> _mappings = [];

    /// <param name="kind">That of the IOMMU that tracks.</param>
    /// <param name="oneGroup">The two devices behind it share an IOMMU group.</param>
    public IommufdFixture(
        SoftKernelFaults faults = SoftKernelFaults.None, bool testDomain = false,
        SoftIommuKind kind = SoftIommuKind.VtdScalable, ulong? lockedMemory = null, bool oneGroup = false)
    {
        var disk = new SoftDisk("/nonexistent", 4096);
        Kernel = new SoftKernel(
            new LinuxKernel(),
            new SoftHost(
                [new SoftIommuUnit("dmar0") { Kind = kind }, new SoftIommuUnit("dmar1") { DirtyTracking = false }],
                [
                    new SoftNvme(Tracking, "dmar0", disk),
                    new SoftNvme(TrackingToo, "dmar0", disk) { GroupWith = oneGroup ? Tracking : null },
                    new SoftNvme(Plain, "dmar1", disk),
                ]) { TestDomain = testDomain, LockedMemoryLimit = lockedMemory },
            faults);
        SyscallResult opened = Kernel.Open("/dev/iommu", OpenFlags.ReadWrite);
        Assert.True(opened.Succeeded);
        Fd = new KernelFd(Kernel, (int)opened.Value);
    }

    public SoftKernel Kernel { get; }

    public KernelFd Fd { get; }

    public DevicePort Port(string address = Tracking) => Kernel.PortOf(address);

    public Errno Call<T>(ref T command)
        where T : unmanaged, IIoctlArgument<T> =>
        Kernel.Ioctl(Fd, ref command).Errno;

    public IBoundDevice Bind(string address = Tracking)
    {
        Assert.Equal(Errno.Success, ((IVfioHost)Kernel).FindIommu(Fd.Number, out IIommuBinder? binder));
        Assert.Equal(Errno.Success, binder!.Bind(Port(address), out IBoundDevice? bound));
        return bound!;
    }

    public uint NewIoas()
    {
        var command = IommuIoasAlloc.Create();
        Assert.Equal(Errno.Success, Call(ref command));
        return command.OutIoasId;
    }

    public Errno TryNewHwpt(uint device, uint parent, out uint hwpt,
        IommuHwptAllocFlags flags = IommuHwptAllocFlags.DirtyTracking)
    {
        var command = IommuHwptAlloc.Create(device, flags, parent);
        Errno errno = Call(ref command);
        hwpt = command.OutHwptId;
        return errno;
    }

    public uint NewHwpt(uint device, uint parent)
    {
        Assert.Equal(Errno.Success, TryNewHwpt(device, parent, out uint hwpt));
        return hwpt;
    }

    /// <summary>A device on a tracking table of a new IOAS, tracking switched on.</summary>
    public (uint Ioas, uint Hwpt, IBoundDevice Device) AttachTracking()
    {
        uint ioas = NewIoas();
        IBoundDevice device = Bind();
        uint hwpt = NewHwpt(device.DeviceId, ioas);
        uint id = hwpt;
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.Equal(Errno.Success, Track(hwpt));
        return (ioas, hwpt, device);
    }

    public Errno Track(uint hwpt, bool enable = true)
    {
        var command = IommuHwptSetDirtyTracking.Create(
            hwpt, enable ? IommuHwptSetDirtyTrackingFlags.Enable : IommuHwptSetDirtyTrackingFlags.None);
        return Call(ref command);
    }

    public Mapping Memory(ulong byteLength)
    {
        var mapping = Mapping.CreateAnonymous(Kernel, byteLength);
        _mappings.Add(mapping);
        return mapping;
    }

    public Errno Map(uint ioas, ulong iova, ulong address, ulong byteLength, IommuIoasMapFlags flags = Writable)
    {
        var command = IommuIoasMap.Create(ioas, iova, address, byteLength, flags);
        return Call(ref command);
    }

    public Errno Unmap(uint ioas, ulong iova, ulong byteLength) => Unmap(ioas, iova, byteLength, out _);

    public Errno Unmap(uint ioas, ulong iova, ulong byteLength, out ulong unmapped)
    {
        var command = IommuIoasUnmap.Create(ioas, iova, byteLength);
        Errno errno = Call(ref command);
        unmapped = command.Length;
        return errno;
    }

    public Errno Copy(uint to, ulong toIova, uint from, ulong fromIova, ulong byteLength,
        IommuIoasMapFlags flags = Writable)
    {
        var command = IommuIoasCopy.Create(to, toIova, from, fromIova, byteLength, flags);
        return Call(ref command);
    }

    public Errno Harvest(uint hwpt, ulong iova, ulong byteLength, ulong bitmap, ulong pageSize = 4096,
        IommuHwptGetDirtyBitmapFlags flags = IommuHwptGetDirtyBitmapFlags.None)
    {
        var command = IommuHwptGetDirtyBitmap.Create(hwpt, iova, byteLength, pageSize, bitmap, flags);
        return Call(ref command);
    }

    /// <summary>Harvests into fresh memory and answers which bits were set, also beyond the bitmap.</summary>
    public int[] DirtyBits(uint hwpt, ulong iova, ulong byteLength, ulong pageSize = 4096,
        IommuHwptGetDirtyBitmapFlags flags = IommuHwptGetDirtyBitmapFlags.None)
    {
        using var bitmap = Mapping.CreateAnonymous(Kernel, 8192);
        Assert.Equal(Errno.Success, Harvest(hwpt, iova, byteLength, bitmap.Address.Value, pageSize, flags));
        return SetBits(bitmap.Bytes(0, 8192));
    }

    public static int[] SetBits(ReadOnlySpan<byte> bitmap)
    {
        var bits = new List<int>();
        for (int bit = 0; bit < bitmap.Length * 8; bit++)
        {
            if ((bitmap[bit / 8] >> (bit % 8) & 1) != 0)
                bits.Add(bit);
        }

        return [.. bits];
    }

    public void Write(ulong iova, byte value = 1, string address = Tracking) =>
        Assert.True(Port(address).TryWrite(iova, [value]));

    public Errno Destroy(uint id)
    {
        var command = IommuDestroy.Create(id);
        return Call(ref command);
    }

    public (Errno Errno, IommuIovaRange[] Ranges, ulong Alignment, uint Total) Ranges(uint ioas, uint room = 16)
    {
        Mapping memory = Memory(GuestPage.Size);
        var command = IommuIoasIovaRanges.Create(ioas, memory.Address.Value, room);
        Errno errno = Call(ref command);
        var ranges = new IommuIovaRange[Math.Min(room, command.NumIovas)];
        Span<ulong> words = memory.Words(64);
        for (int index = 0; index < ranges.Length; index++)
            ranges[index] = new IommuIovaRange { Start = words[2 * index], Last = words[2 * index + 1] };
        return (errno, ranges, command.OutIovaAlignment, command.NumIovas);
    }

    /// <summary>Closes what calls opened beside the iommufd.</summary>
    public void CloseOthers()
    {
        const int FirstSoft = 1 << 20;
        for (int fd = FirstSoft; Kernel.CountOpen().Descriptors > 1; fd++)
        {
            if (fd != Fd.Number)
                Kernel.Close(fd);
        }
    }

    public void Dispose()
    {
        foreach (Mapping mapping in _mappings)
            mapping.Dispose();
        Fd.Dispose();
        Kernel.Dispose();
    }
}
