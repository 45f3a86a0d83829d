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
            iommufd.Dispose();
            Assert.Equal(3, kernel.CountOpen().IommufdObjects);
            device.Dispose();
            Assert.Equal(default, kernel.CountOpen());
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
}
