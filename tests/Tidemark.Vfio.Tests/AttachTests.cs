using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Auto domains: which page table a device gets, and what is left after a failure.</summary>
public sealed class AttachTests
{
    private readonly ScriptedKernel _kernel = new();
    private readonly IommufdContainer _container;

    public AttachTests()
    {
        _container = _kernel.CreateContainer();
    }

    [Fact]
    public void The_first_device_gets_a_page_table_with_dirty_tracking_when_its_IOMMU_can()
    {
        Attachment attachment = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);

        Assert.True(attachment.HasIommuTracking);
        Assert.True(_container.SupportsDirtyTracking);
        Assert.Equal(30u, attachment.Entry!.Hwpt.Id);
        Assert.Equal(IommuHwInfoType.IntelVtd, attachment.HostIommu!.Caps.Type);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void An_IOMMU_that_can_not_track_gets_a_plain_page_table_and_a_stated_reason()
    {
        Attachment attachment = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: false);

        Assert.False(attachment.HasIommuTracking);
        Assert.False(_container.SupportsDirtyTracking);
        Assert.Contains("can not set dirty bits", attachment.NoTrackingReason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_second_device_joins_the_page_table_and_the_last_one_takes_it_along()
    {
        Attachment first = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        VfioDevice second = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectAttach(21, 30);
        _container.Attach(second);
        Assert.Equal(2, Assert.Single(_container.Hwpts).Devices.Count);

        _kernel.ExpectDetach(20);
        _container.Detach(first.Device);
        Assert.Same(second, Assert.Single(Assert.Single(_container.Hwpts).Devices));
        Assert.True(_container.SupportsDirtyTracking);

        _kernel.ExpectDetach(21);
        _kernel.ExpectDestroy(30);
        _container.Detach(second);
        Assert.Empty(_container.Hwpts);
        Assert.False(_container.SupportsDirtyTracking);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Mixed_hardware_ends_in_two_page_tables_of_one_address_space_newest_first()
    {
        AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        VfioDevice plain = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: false);
        _kernel.ExpectAttach(21, 30, Errno.EINVAL);
        _kernel.ExpectHwptAlloc(6, IommuHwptAllocFlags.None, 31);
        _kernel.ExpectAttach(21, 31);
        _container.Attach(plain);
        Assert.Equal([31u, 30u], _container.Hwpts.Select(entry => entry.Hwpt.Id));
        Assert.True(_container.SupportsDirtyTracking);

        VfioDevice third = Bind(22, 7);
        _kernel.ExpectHwInfo(7, dirty: false);
        _kernel.ExpectAttach(22, 31, Errno.EINVAL);
        _kernel.ExpectAttach(22, 30);
        _container.Attach(third);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void The_container_stops_supporting_tracking_when_the_last_capable_page_table_leaves()
    {
        Attachment capable = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        VfioDevice plain = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: false);
        _kernel.ExpectAttach(21, 30, Errno.EINVAL);
        _kernel.ExpectHwptAlloc(6, IommuHwptAllocFlags.None, 31);
        _kernel.ExpectAttach(21, 31);
        _container.Attach(plain);

        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(30);
        _container.Detach(capable.Device);
        Assert.False(_container.SupportsDirtyTracking);
        Assert.Single(_container.Hwpts);
    }

    [Fact]
    public void A_device_whose_IOMMU_can_track_does_not_join_a_plain_page_table()
    {
        AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: false);
        VfioDevice capable = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectHwptAlloc(6, IommuHwptAllocFlags.DirtyTracking, 31);
        _kernel.ExpectAttach(21, 31);

        Assert.True(_container.Attach(capable).HasIommuTracking);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Theory]
    [InlineData(Errno.EBUSY)]
    [InlineData(Errno.ENOMEM)]
    [InlineData(Errno.EADDRINUSE)]
    [InlineData(Errno.ENOENT)]
    public void Any_other_error_than_EINVAL_fails_the_attach_and_is_reported(Errno errno)
    {
        AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        VfioDevice second = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectAttach(21, 30, errno);

        KernelException failure = Assert.Throws<KernelException>(() => _container.Attach(second));
        Assert.Equal(errno, failure.Errno);
        Assert.Contains("device21", failure.Message, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Single(Assert.Single(_container.Hwpts).Devices);
        Assert.Single(_container.Attachments);
    }

    [Fact]
    public void A_new_page_table_that_its_device_refuses_is_destroyed()
    {
        VfioDevice device = Bind(20, 5);
        _kernel.ExpectHwInfo(5, dirty: true);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30);
        _kernel.ExpectAttach(20, 30, Errno.EINVAL);
        _kernel.ExpectDestroy(30);

        Assert.Throws<KernelException>(() => _container.Attach(device));
        Assert.Equal(0, _kernel.Remaining);
        Assert.Empty(_container.Hwpts);
        Assert.Equal(0, _container.Iommufd.FailedDestroyCount);
    }

    [Theory]
    [InlineData(Errno.ENOTTY, "can not make page tables")]
    [InlineData(Errno.EOPNOTSUPP, "refused a page table")]
    public void Without_page_tables_on_request_the_device_is_attached_to_the_address_space(Errno errno, string reason)
    {
        VfioDevice device = Bind(20, 5);
        _kernel.ExpectHwInfo(5, dirty: true);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30, errno);
        _kernel.ExpectAttach(20, 1);

        Attachment attachment = _container.Attach(device);
        Assert.Null(attachment.Entry);
        Assert.StartsWith("no IOMMU tracking: ", attachment.NoTrackingReason, StringComparison.Ordinal);
        Assert.Contains(reason, attachment.NoTrackingReason, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);

        _kernel.ExpectDetach(20);
        _container.Detach(device);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Theory]
    [InlineData(Errno.ENOMEM)]
    [InlineData(Errno.EADDRINUSE)]
    public void Other_failures_of_making_a_page_table_are_not_taken_for_inability(Errno errno)
    {
        VfioDevice device = Bind(20, 5);
        _kernel.ExpectHwInfo(5, dirty: true);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30, errno);

        Assert.Equal(errno, Assert.Throws<KernelException>(() => _container.Attach(device)).Errno);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Empty(_container.Attachments);
    }

    [Fact]
    public void A_mediated_device_is_attached_to_the_address_space_and_nothing_is_asked_about_an_IOMMU()
    {
        VfioDevice device = _kernel.BindDevice(_container.Iommufd, 20, 5, isMdev: true);
        _kernel.ExpectAttach(20, 1);

        Attachment attachment = _container.Attach(device);
        Assert.Null(attachment.Entry);
        Assert.Null(attachment.HostIommu);
        Assert.Contains("mediated", attachment.NoTrackingReason, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_kernel_that_knows_nothing_about_the_IOMMU_still_attaches()
    {
        VfioDevice device = Bind(20, 5);
        _kernel.ExpectHwInfo(5, dirty: false, Errno.EOPNOTSUPP);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.None, 30);
        _kernel.ExpectAttach(20, 30);

        Assert.False(_container.Attach(device).HasIommuTracking);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_failing_detach_is_reported_and_forgets_the_device_all_the_same()
    {
        Attachment attachment = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        _kernel.ExpectDetach(20, Errno.EIO);

        Assert.Equal(Errno.EIO, Assert.Throws<KernelException>(() => _container.Detach(attachment.Device)).Errno);
        Assert.Empty(_container.Attachments);
        // The device is on its page table until it is closed; only then can the table go.
        attachment.Device.Dispose();
        _kernel.ExpectDestroy(30);
        _kernel.ExpectDestroy(1);
        _container.Dispose();
        Assert.Equal(0, _container.Iommufd.FailedDestroyCount);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Disposing_undoes_in_reverse_order()
    {
        AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        VfioDevice second = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectAttach(21, 30);
        _container.Attach(second);

        _kernel.ExpectDetach(21);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(30);
        _kernel.ExpectDestroy(1);
        _container.Dispose();
        _container.Dispose();
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(0, _kernel.LiveMappings);
    }

    [Fact]
    public void The_address_width_follows_the_usable_IOVAs_and_is_64_when_they_are_unknown()
    {
        HostIommuDevice host = AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true).HostIommu!;
        _kernel.ExpectUsableIovas((0, 0xfedf_ffff), (0xfef0_0000, (1UL << 48) - 1));
        Assert.Equal(48, host.ComputeAddressWidth());
        _kernel.Expect(IommufdRequests.IoasIovaRanges, (_, _) => Errno.ENOENT);
        Assert.Equal(64, host.ComputeAddressWidth());
        Assert.Equal(Errno.Success, host.TryGet(HostIommuCapability.DirtyTracking, out ulong dirty));
        Assert.Equal(1UL, dirty);
        Assert.Equal(Errno.EINVAL, host.TryGet((HostIommuCapability)99, out _));
    }

    [Fact]
    public void What_the_kernel_says_of_an_IOMMU_is_kept_whole_and_each_capability_is_asked_by_name()
    {
        _kernel.Expect(IommufdRequests.GetHwInfo, (_, argument) =>
        {
            Script.SetBits(argument.Read64(16), [0, 65]);
            argument.Write32(12, 16);
            argument.Write32(24, (uint)IommuHwInfoType.Amd);
            argument[28] = 20;
            BinaryPrimitives.WriteUInt64LittleEndian(argument[32..], 0x8000_0000_0000_0101);
            return Errno.Success;
        });
        HostIommuCaps caps = _container.Iommufd.GetHwInfo(5);
        Assert.Equal((IommuHwInfoType.Amd, 20, 16), (caps.Type, caps.MaximumPasidLog2, caps.VendorData.Length));
        // Bits without a name are kept.
        Assert.Equal(0x8000_0000_0000_0101, (ulong)caps.Capabilities);
        Assert.Equal((1UL, 2UL), (caps.Amd!.Value.Efr, caps.Amd!.Value.Efr2));
        IReadOnlyList<IovaRange>? ranges = null;
        var host = new HostIommuDevice("device5", 5, caps, () => ranges);
        Assert.Equal((Errno.Success, (ulong)IommuHwInfoType.Amd), Ask(HostIommuCapability.IommuType));
        Assert.Equal((Errno.Success, 20UL), Ask(HostIommuCapability.PasidWidth));
        Assert.Equal((Errno.Success, 1UL), Ask(HostIommuCapability.DirtyTracking));
        Assert.Equal((Errno.Success, 64UL), Ask(HostIommuCapability.AddressWidth));
        ranges = [];
        Assert.Equal((Errno.Success, 64UL), Ask(HostIommuCapability.AddressWidth));
        // Asked anew each time: the ranges change with every attach.
        ranges = [new IovaRange(new Iova(0), new Iova((1UL << 39) - 1))];
        Assert.Equal((Errno.Success, 39UL), Ask(HostIommuCapability.AddressWidth));
        Assert.Equal((Errno.EINVAL, 0UL), Ask((HostIommuCapability)4));

        (Errno, ulong) Ask(HostIommuCapability capability) => (host.TryGet(capability, out ulong value), value);
    }

    [Fact]
    public void A_page_table_that_is_to_be_a_parent_is_asked_for_with_tracking_then_without_and_never_given_up_for_another()
    {
        const IommuHwptAllocFlags Both = IommuHwptAllocFlags.NestParent | IommuHwptAllocFlags.DirtyTracking;
        AttachFirst(fd: 20, deviceId: 5, hwptId: 30, dirty: true);
        // Not one of the others, which can be nobody's parent.
        VfioDevice second = Bind(21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectHwptAlloc(6, Both, 31);
        _kernel.ExpectAttach(21, 31);
        Assert.Equal(Both, _container.Attach(second, nestingParent: true).Entry!.Hwpt.Flags);
        // Joined by the next one that wants a parent.
        VfioDevice third = Bind(22, 7);
        _kernel.ExpectHwInfo(7, dirty: true);
        _kernel.ExpectAttach(22, 31);
        Assert.Equal(31u, _container.Attach(third, nestingParent: true).Entry!.Hwpt.Id);
        // An IOMMU that has either but not both.
        VfioDevice fourth = Bind(23, 8);
        _kernel.ExpectHwInfo(8, dirty: true);
        _kernel.ExpectAttach(23, 31, Errno.EINVAL);
        _kernel.ExpectHwptAlloc(8, Both, 32, Errno.EOPNOTSUPP);
        _kernel.ExpectHwptAlloc(8, IommuHwptAllocFlags.NestParent, 33);
        _kernel.ExpectAttach(23, 33);
        Attachment attachment = _container.Attach(fourth, nestingParent: true);
        Assert.False(attachment.HasIommuTracking);
        Assert.NotNull(attachment.NoTrackingReason);
        // And one that has neither: not attached to the address space as if nothing had been asked.
        VfioDevice fifth = Bind(24, 9);
        _kernel.ExpectHwInfo(9, dirty: false);
        _kernel.ExpectAttach(24, 33, Errno.EINVAL);
        _kernel.ExpectAttach(24, 31, Errno.EINVAL);
        _kernel.ExpectHwptAlloc(9, IommuHwptAllocFlags.NestParent, 34, Errno.EOPNOTSUPP);
        Assert.Equal(Errno.EOPNOTSUPP, Assert.Throws<KernelException>(() => _container.Attach(fifth, nestingParent: true)).Errno);
        Assert.Equal(0, _kernel.Remaining);
    }

    private VfioDevice Bind(int fd, uint deviceId) => _kernel.BindDevice(_container.Iommufd, fd, deviceId);

    private Attachment AttachFirst(int fd, uint deviceId, uint hwptId, bool dirty)
    {
        VfioDevice device = Bind(fd, deviceId);
        _kernel.ExpectHwInfo(deviceId, dirty);
        _kernel.ExpectHwptAlloc(
            deviceId, dirty ? IommuHwptAllocFlags.DirtyTracking : IommuHwptAllocFlags.None, hwptId);
        _kernel.ExpectAttach(fd, hwptId);
        return _container.Attach(device);
    }
}
