using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>The open file of <c>/dev/vfio/N</c>.</summary>
internal sealed class VfioGroupFile(VfioGroup group) : SoftFile
{
    public override string Kind => "vfio-group";

    public VfioGroup Group => group;

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        if (request == VfioRequests.GroupGetDeviceFd.Value)
            return group.GetDeviceFd(argument);
        Errno errno =
            request == VfioRequests.GroupGetStatus.Value ? group.GetStatus(argument)
            : request == VfioRequests.GroupSetContainer.Value ? group.SetContainer(argument)
            : request == VfioRequests.GroupUnsetContainer.Value ? group.UnsetContainer()
            : Errno.ENOTTY;
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    /// <summary>Only UNSET_CONTAINER has no argument; for the others a number is a pointer to nothing.</summary>
    public override SyscallResult IoctlValue(uint request, ulong argument) => Ioctl(request, []);

    public override void Release() => group.CloseFile();
}

/// <summary>
/// A device's file that GET_DEVICE_FD gave. Usable at once, and never to be bound: what it does not share with a cdev's
/// file are the requests that bind and attach.
/// </summary>
internal sealed class VfioGroupDeviceFile(VfioGroup group, SoftVfioDevice device, VfioOpenDevice open) : SoftFile
{
    public override string Kind => "vfio-device";

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        return request == VfioRequests.DeviceBindIommufd.Value
            ? SyscallResult.Fail(Refuse(argument))
            : open.Ioctl(request, argument);
    }

    public override SyscallResult IoctlValue(uint request, ulong argument) => Ioctl(request, []);

    public override SyscallResult Pread(Span<byte> buffer, ulong offset) => open.Read(buffer, offset);

    public override SyscallResult Pwrite(ReadOnlySpan<byte> buffer, ulong offset) => open.Write(buffer, offset);

    public override SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset) =>
        open.ResolveMmap(byteLength, offset, out hostFd, out hostOffset);

    public override void Release() => group.CloseDevice(device);

    private static Errno Refuse(ReadOnlySpan<byte> argument)
    {
        Errno errno = VfioDeviceFile.ReadBind(argument, out _);
        return errno == Errno.Success ? Errno.EINVAL : errno;
    }
}
