using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;

namespace Tidemark.Vfio.Tests;

/// <summary>Finding, opening and describing a device.</summary>
public sealed class DeviceTests
{
    private const string Folder = "/sys/bus/pci/devices/0000:01:00.0";

    private readonly ScriptedKernel _kernel = new();
    private readonly FakeSysfs _sysfs = new();

    [Fact]
    public void A_device_is_found_through_its_vfio_dev_folder()
    {
        _sysfs.Entries[$"{Folder}/vfio-dev/vfio3/dev"] = "510:3";
        _kernel.ExpectOpen("/dev/vfio/devices/vfio3");
        using VfioDevice device = VfioDevice.Open(_kernel, _sysfs, "0000:01:00.0", "nvme0");
        Assert.Equal("nvme0", device.Name);
        Assert.False(device.IsMdev);
        Assert.Equal(["0000:01:00.0"], VfioDiscovery.ListPciDevices(_sysfs));
        device.Dispose();
        Assert.Equal(["open /dev/vfio/devices/vfio3", "close 50"], _kernel.Log);
    }

    [Fact]
    public void A_mediated_device_is_told_by_its_subsystem()
    {
        const string Mdev = "/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        _sysfs.Entries[$"{Mdev}/vfio-dev/vfio0"] = null;
        _sysfs.Links[$"{Mdev}/subsystem"] = "../../../../bus/mdev";
        _kernel.ExpectOpen("/dev/vfio/devices/vfio0");
        Assert.True(VfioDevice.OpenFolder(_kernel, _sysfs, Mdev, "mtty").IsMdev);
    }

    [Fact]
    public void Each_reason_why_a_device_can_not_be_opened_is_told_apart()
    {
        Assert.Contains("no such device", OpenFailure().Message, StringComparison.Ordinal);

        _sysfs.Entries[Folder] = null;
        Assert.Contains("no driver", OpenFailure().Message, StringComparison.Ordinal);
        _sysfs.Links[$"{Folder}/driver"] = "../../../bus/pci/drivers/nvme";
        KernelException bound = OpenFailure();
        Assert.Contains("bound to nvme", bound.Message, StringComparison.Ordinal);
        Assert.Contains("vfio-pci", bound.Remedy, StringComparison.Ordinal);

        _sysfs.Entries[$"{Folder}/vfio-dev"] = null;
        Assert.Contains("CONFIG_VFIO_DEVICE_CDEV", OpenFailure().Message, StringComparison.Ordinal);

        _sysfs.Entries[$"{Folder}/vfio-dev/vfio3"] = null;
        _kernel.ExpectOpen("/dev/vfio/devices/vfio3", Errno.EACCES);
        Assert.Contains("pass an open descriptor", OpenFailure().Message, StringComparison.Ordinal);

        Assert.Throws<ArgumentException>(() => VfioDevice.Open(_kernel, _sysfs, "../../../etc"));
        Assert.Throws<ArgumentException>(() => VfioDevice.Open(_kernel, _sysfs, "nvme0"));
    }

    [Fact]
    public void An_iommufd_that_can_not_be_opened_says_why()
    {
        _kernel.ExpectOpen("/dev/iommu", Errno.ENOENT);
        KernelException failure = Assert.Throws<KernelException>(() => Iommufd.Open(_kernel));
        Assert.Contains("CONFIG_IOMMUFD", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_descriptor_that_was_handed_in_stays_open_when_it_is_not_owned()
    {
        VfioDevice.FromFd(new KernelFd(_kernel, 20, owned: false), "given").Dispose();
        _kernel.OpenIommufd().Dispose();
        Assert.Empty(_kernel.Log);
    }

    [Fact]
    public void Vendor_data_is_read_by_kind()
    {
        byte[] vtd = new byte[24];
        vtd[0] = 1;
        BinaryPrimitives.WriteUInt64LittleEndian(vtd.AsSpan(8), 0x1111);
        BinaryPrimitives.WriteUInt64LittleEndian(vtd.AsSpan(16), 0x2222);
        var caps = new HostIommuCaps(
            IommuHwInfoType.IntelVtd, IommuHwCapabilities.DirtyTracking | (IommuHwCapabilities)0x100, 20, vtd);
        Assert.True(caps.SupportsDirtyTracking);
        Assert.Equal(0x2222UL, caps.IntelVtd!.Value.EcapReg);
        Assert.Equal(IommuHwInfoVtdFlags.Errata772415Spr17, caps.IntelVtd!.Value.Flags);
        Assert.Null(caps.Amd);

        byte[] smmu = new byte[40];
        for (int index = 0; index < 10; index++)
            smmu[4 * index] = (byte)index;
        var arm = new HostIommuCaps(IommuHwInfoType.ArmSmmuv3, default, 0, smmu);
        Assert.Equal(7u, arm.ArmSmmuv3!.Value.Idr[5]);
        Assert.Equal(9u, arm.ArmSmmuv3!.Value.Aidr);
        Assert.Null(new HostIommuCaps(IommuHwInfoType.ArmSmmuv3, default, 0, new byte[8]).ArmSmmuv3);
    }

    [Fact]
    public void Interrupts_are_connected_with_one_call_and_disabled_with_one()
    {
        using VfioDevice device = Device();
        _kernel.Expect(VfioRequests.DeviceSetIrqs, (_, argument) =>
        {
            Assert.Equal(28, argument.Length);
            Assert.Equal(28, argument.Read32(0));
            Assert.Equal(0x24, argument.Read32(4));
            Assert.Equal((int)VfioPciIrqIndex.Msix, argument.Read32(8));
            Assert.Equal(1, argument.Read32(12));
            Assert.Equal(2, argument.Read32(16));
            Assert.Equal(60, argument.Read32(20));
            Assert.Equal(-1, argument.Read32(24));
            return Errno.Success;
        });
        device.SetTriggers((uint)VfioPciIrqIndex.Msix, 1, [60, -1]);
        _kernel.Expect(VfioRequests.DeviceSetIrqs, (_, argument) =>
        {
            Assert.Equal(20, argument.Length);
            Assert.Equal(0x21, argument.Read32(4));
            Assert.Equal(0, argument.Read32(16));
            return Errno.Success;
        });
        device.DisableAll((uint)VfioPciIrqIndex.Msix);
    }

    [Fact]
    public void Only_the_sparse_areas_of_a_region_can_be_mapped()
    {
        using VfioDevice device = Device();
        ExpectRegion(0x4000, capabilityLength: 16 + (2 * 16), capability =>
        {
            capability.Write32(0, (ushort)VfioRegionInfoCapId.SparseMmap | (1 << 16));
            capability.Write32(8, 2);
            BinaryPrimitives.WriteUInt64LittleEndian(capability[16..], 0);
            BinaryPrimitives.WriteUInt64LittleEndian(capability[24..], 0x1000);
            BinaryPrimitives.WriteUInt64LittleEndian(capability[32..], 0x2000);
            BinaryPrimitives.WriteUInt64LittleEndian(capability[40..], 0x2000);
        });
        VfioRegion region = device.GetRegion(VfioPciRegionIndex.Bar0);
        Assert.Equal([new RegionArea(0, 0x1000), new RegionArea(0x2000, 0x2000)], region.MapAreas);
        region.MapArea(new RegionArea(0x3000, 0x1000)).Dispose();
        Assert.Throws<ArgumentException>(() => region.MapArea(new RegionArea(0x1000, 0x1000)));
        Assert.Throws<ArgumentException>(() => region.MapArea(new RegionArea(0, 0x2000)));
        Assert.Throws<ArgumentOutOfRangeException>(() => region.Read(0x3fff, new byte[2]));
        Assert.Same(region, device.GetRegion(0u));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Theory]
    [InlineData(32u)]
    [InlineData(0xffff_fff0u)]
    public void A_capability_chain_that_loops_or_leaves_the_buffer_ends(uint next)
    {
        using VfioDevice device = Device();
        ExpectRegion(0x4000, capabilityLength: 16, capability =>
        {
            capability.Write32(0, 77);
            capability.Write32(4, next);
        });
        Assert.Equal([new RegionArea(0, 0x4000)], device.GetRegion(0u).MapAreas);
    }

    [Fact]
    public void Reset_waits_for_who_changes_the_device_at_the_moment()
    {
        using VfioDevice device = Device();
        _kernel.ExpectReset(Errno.EAGAIN);
        _kernel.ExpectReset();
        device.Reset();
        _kernel.ExpectReset(Errno.EINVAL);
        Assert.Contains("no reset", Assert.Throws<KernelException>(device.Reset).Message, StringComparison.Ordinal);
    }

    private delegate void FillCapability(Span<byte> capability);

    private void ExpectRegion(ulong size, int capabilityLength, FillCapability fill)
    {
        for (int call = 0; call < 2; call++)
        {
            bool whole = call == 1;
            _kernel.Expect(VfioRequests.DeviceGetRegionInfo, (_, argument) =>
            {
                Assert.Equal(whole ? 32 + capabilityLength : 32, argument.Length);
                argument.Write32(0, (uint)(32 + capabilityLength));
                argument.Write32(4, 0xF);
                BinaryPrimitives.WriteUInt64LittleEndian(argument[16..], size);
                if (whole)
                {
                    argument.Write32(12, 32);
                    fill(argument[32..]);
                }

                return Errno.Success;
            });
        }
    }

    private VfioDevice Device() => VfioDevice.FromFd(new KernelFd(_kernel, 20, owned: false), "device20");

    private KernelException OpenFailure() =>
        Assert.Throws<KernelException>(() => VfioDevice.Open(_kernel, _sysfs, "0000:01:00.0"));
}
