using Tidemark.Abi;
using Tidemark.Kernel.Linux;

namespace Tidemark.Kernel.Soft.Tests.Files;

/// <summary>The parts put together: a device node, bound to an iommufd, attached, and cleaned up again.</summary>
public sealed class DeviceNodeTests
{
    [Fact]
    public void A_device_is_opened_bound_and_attached_through_descriptors()
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, new byte[1 << 20]);
            var nvme = new SoftNvme("0000:01:00.0", "dmar0", new SoftDisk(path, 1 << 20));
            using var kernel = new SoftKernel(
                new LinuxKernel(), new SoftHost([new SoftIommuUnit("dmar0")], [nvme]));
            using var iommufd = new KernelFd(kernel, (int)kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
            SyscallResult opened = kernel.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite);
            Assert.Equal(Errno.Success, opened.Errno);
            using var device = new KernelFd(kernel, (int)opened.Value);
            var bind = VfioDeviceBindIommufd.Create(iommufd.Number);
            Assert.Equal(Errno.Success, kernel.Ioctl(device, ref bind).Errno);
            var ioas = IommuIoasAlloc.Create();
            Assert.Equal(Errno.Success, kernel.Ioctl(iommufd, ref ioas).Errno);
            var attach = VfioDeviceAttachIommufdPt.Create(ioas.OutIoasId);
            Assert.Equal(Errno.Success, kernel.Ioctl(device, ref attach).Errno);
            Assert.NotEqual(ioas.OutIoasId, attach.PtId);
            Assert.Equal(3, kernel.CountOpen().IommufdObjects);
            AssertOnlySharedMappings(kernel, device, iommufd);
            iommufd.Dispose();
            Assert.Equal(3, kernel.CountOpen().IommufdObjects);
            device.Dispose();
            Assert.Equal(default, kernel.CountOpen());
            kernel.Dispose();
            Assert.Equal(Errno.ENODEV, kernel.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite).Errno);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_device_whose_disk_can_not_be_opened_answers_with_an_errno()
    {
        var nvme = new SoftNvme("0000:01:00.0", "dmar0", new SoftDisk("/nonexistent/disk", 1 << 20));
        using var kernel = new SoftKernel(
            new LinuxKernel(), new SoftHost([new SoftIommuUnit("dmar0")], [nvme]));
        Assert.Equal(Errno.ENOENT, kernel.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite).Errno);
    }

    [Fact]
    public void A_closed_descriptor_has_no_number_that_could_be_another_files()
    {
        using var kernel = new SoftKernel(new LinuxKernel(), new SoftHost([], []));
        var closed = new KernelFd(kernel, (int)kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        int number = closed.Number;
        closed.Dispose();
        using var other = new KernelFd(kernel, (int)kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        Assert.Equal(number, other.Number);
        var ioas = IommuIoasAlloc.Create();
        Assert.Equal(Errno.EBADF, kernel.Ioctl(closed, ref ioas).Errno);
        Assert.Equal(0, kernel.CountOpen().IommufdObjects);
    }

    private static void AssertOnlySharedMappings(SoftKernel kernel, KernelFd device, KernelFd iommufd)
    {
        const ulong ControllerMemory = 2UL << 40;
        Assert.Equal(Errno.EINVAL,
            kernel.Mmap(4096, MemoryProtection.Read, MapFlags.Private, device.Number, ControllerMemory).Errno);
        SyscallResult shared = kernel.Mmap(
            4096, MemoryProtection.Read, MapFlags.Shared, device.Number, ControllerMemory);
        Assert.Equal(Errno.Success, shared.Errno);
        Assert.True(kernel.Munmap(unchecked((ulong)shared.Value), 4096).Succeeded);
        Assert.Equal(Errno.EINVAL,
            kernel.Mmap(4096, MemoryProtection.Read, MapFlags.Private, iommufd.Number, 0).Errno);
        Assert.Equal(Errno.ENXIO,
            kernel.Mmap(4096, MemoryProtection.Read, MapFlags.Shared, iommufd.Number, 0).Errno);
    }
}
