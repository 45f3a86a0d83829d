using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// An open file of <c>/dev/vfio/devices/vfioN</c>. Until it is bound to an iommufd, everything but the bind is EINVAL;
/// it stays bound until its last descriptor is closed.
/// </summary>
internal sealed class VfioDeviceFile(SoftVfioDevice device) : SoftFile
{
    private const int BindLength = (int)VfioDeviceBindIommufd.StructSize;
    private const int TokenLength = 16;

    /// <summary>Set once, under the device's gate.</summary>
    private volatile VfioOpenDevice? _open;

    public override string Kind => "vfio-device";

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        if (request != VfioRequests.DeviceBindIommufd.Value)
            return _open?.Ioctl(request, argument) ?? SyscallResult.Fail(Errno.EINVAL);
        Errno errno = Bind(argument);
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    /// <summary>Only RESET has no argument; for the others a number is a pointer to nothing.</summary>
    public override SyscallResult IoctlValue(uint request, ulong argument) => Ioctl(request, []);

    public override SyscallResult Pread(Span<byte> buffer, ulong offset) =>
        _open?.Read(buffer, offset) ?? SyscallResult.Fail(Errno.EINVAL);

    public override SyscallResult Pwrite(ReadOnlySpan<byte> buffer, ulong offset) =>
        _open?.Write(buffer, offset) ?? SyscallResult.Fail(Errno.EINVAL);

    public override SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset)
    {
        if (_open is { } open)
            return open.ResolveMmap(byteLength, offset, out hostFd, out hostOffset);
        hostFd = -1;
        hostOffset = 0;
        return SyscallResult.Fail(Errno.EINVAL);
    }

    public override void Release()
    {
        if (_open is null)
            return;
        lock (device.Gate)
        {
            _open = null;
            device.End();
        }

        device.Group?.Unblock();
    }

    /// <summary>The argument of a bind, and what is wrong with it whoever asks.</summary>
    public static Errno ReadBind(ReadOnlySpan<byte> argument, out VfioDeviceBindIommufd bind)
    {
        bind = default;
        if (!VfioArgument.TryRead(argument, sizeof(uint), out uint argsz))
            return Errno.EFAULT;
        if (argsz < VfioDeviceBindIommufd.MinimumSize)
            return Errno.EINVAL;
        if (argument.Length < argsz)
            return Errno.EFAULT;
        if (argsz > BindLength && argument[BindLength..(int)argsz].ContainsAnyExcept((byte)0))
            return Errno.E2BIG;
        VfioArgument.TryRead(argument, (int)Math.Min(argsz, BindLength), out bind);
        bool known = bind.Iommufd >= 0 && (bind.Flags & ~VfioDeviceBindFlags.Token) == 0;
        return known ? Errno.Success : Errno.EINVAL;
    }

    private Errno Bind(Span<byte> argument)
    {
        Errno errno = ReadBind(argument, out VfioDeviceBindIommufd bind);
        if (errno == Errno.Success)
            errno = device.Group?.TryBlock() ?? Errno.Success;
        if (errno != Errno.Success)
            return errno;
        lock (device.Gate)
        {
            errno = _open is null ? CheckToken(bind) : Errno.EINVAL;
            if (errno == Errno.Success)
                errno = BindTo(bind.Iommufd, out bind.OutDevid);
        }

        if (errno != Errno.Success)
        {
            device.Group?.Unblock();
            return errno;
        }

        VfioArgument.Write(argument, bind, (int)VfioDeviceBindIommufd.MinimumSize);
        return Errno.Success;
    }

    /// <summary>
    /// A token is for virtual functions and for physical ones that have some; these devices are neither and refuse any.
    /// </summary>
    private Errno CheckToken(VfioDeviceBindIommufd bind)
    {
        if (bind.Flags == VfioDeviceBindFlags.None)
            return Errno.Success;
        if (!device.ChecksTokens)
            return Errno.EINVAL;
        Span<byte> token = stackalloc byte[TokenLength];
        return device.Kernel.TryReadUser(bind.TokenUuidPtr, token) ? Errno.EINVAL : Errno.EFAULT;
    }

    private Errno BindTo(int iommufd, out uint deviceId)
    {
        deviceId = 0;
        // ORDER: the iommufd is looked up before it is seen that another file has the device.
        Errno errno = device.Kernel.FindIommu(iommufd, out IIommuBinder? iommu);
        if (errno != Errno.Success || iommu is null)
            return errno;
        if (device.Opened is not null)
            return Errno.EINVAL;
        if (device.IsDisposed)
            return Errno.ENODEV;
        errno = device.Bind(iommu, out IBoundDevice? bound);
        if (errno != Errno.Success || bound is null)
            return errno;
        _open = device.Begin(bound, throughGroup: false);
        deviceId = _open.DeviceId;
        return Errno.Success;
    }
}
