using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;

namespace Tidemark.Conformance;

/// <summary>A device bound to a case's iommufd. The case owns its descriptor.</summary>
/// <param name="file">Null: a test device, which has none.</param>
/// <param name="id">Its id in the iommufd.</param>
internal sealed class BoundDevice(CaseRun run, DeviceProfile profile, KernelFd? file, uint id)
{
    private const int Header = (int)VfioDeviceFeature.StructSize;

    public DeviceProfile Profile { get; } = profile;

    public KernelFd File => file
        ?? throw CaseRun.NotApplicable("Needs a device bound to a VFIO driver; name one with --device.");

    /// <summary>The test device and the IOAS in which it waits while it counts as detached; null: a VFIO
    /// device.</summary>
    public (TestDevice Device, uint Parking)? Test { get; init; }

    public uint Id { get; } = id;

    /// <summary>Attaches to an IOAS or HWPT; the id of the HWPT in use comes back.</summary>
    public Errno TryAttach(uint target, out uint hwpt)
    {
        if (Test is { } test)
            return run.TestDomain.TryReplace(test.Device, target, out hwpt);
        VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(target);
        Errno errno = run.Kernel.Ioctl(File, ref attach).Errno;
        hwpt = attach.PtId;
        return errno;
    }

    public uint Attach(uint target)
    {
        run.Answers(TryAttach(target, out uint hwpt), Errno.Success, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
        return hwpt;
    }

    public Errno Detach()
    {
        if (Test is { } test)
            return run.TestDomain.TryReplace(test.Device, test.Parking, out _);
        VfioDeviceDetachIommufdPt detach = VfioDeviceDetachIommufdPt.Create();
        return run.Kernel.Ioctl(File, ref detach).Errno;
    }

    public Errno Reset() => run.Kernel.IoctlValue(File.Number, VfioRequests.DeviceReset.Value, 0).Errno;

    public Errno Probe(VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation) =>
        Feature(index, operation | VfioDeviceFeatureFlags.Probe, payloadLength: 0);

    /// <summary>A feature call with an argument of zeros.</summary>
    public Errno Feature(VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation, int payloadLength)
    {
        byte[] argument = new byte[Header + payloadLength];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, (uint)argument.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), (uint)operation | (uint)index);
        return run.Kernel.Ioctl(File.Number, VfioRequests.DeviceFeature.Value, argument).Errno;
    }

    public VfioRegionInfo Region(VfioPciRegionIndex index)
    {
        VfioRegionInfo info = VfioRegionInfo.Create((uint)index);
        run.Answers(run.Kernel.Ioctl(File, ref info).Errno, Errno.Success, "VFIO_DEVICE_GET_REGION_INFO");
        return info;
    }

    /// <summary>Where a region begins in the device's file.</summary>
    public ulong OffsetOf(VfioPciRegionIndex region) => Profile.Regions[(int)region].Offset;

    /// <summary>A region's size in bytes; 0: the device has none.</summary>
    public ulong SizeOf(VfioPciRegionIndex region) => Profile.Regions[(int)region].Size;

    public ulong ReadRegion(VfioPciRegionIndex region, ulong offset, int byteLength)
    {
        Span<byte> value = stackalloc byte[8];
        value.Clear();
        SyscallResult read = run.Kernel.Pread(File.Number, value[..byteLength], OffsetOf(region) + offset);
        run.Equal(byteLength, read.Value, $"the length of a read of {region} at 0x{offset:x}");
        return BinaryPrimitives.ReadUInt64LittleEndian(value);
    }

    public void WriteRegion(VfioPciRegionIndex region, ulong offset, int byteLength, ulong data)
    {
        Span<byte> value = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(value, data);
        SyscallResult written = run.Kernel.Pwrite(File.Number, value[..byteLength], OffsetOf(region) + offset);
        run.Equal(byteLength, written.Value, $"the length of a write of {region} at 0x{offset:x}");
    }
}
