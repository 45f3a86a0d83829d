using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>What VFIO's core checks of an ioctl on a saving stream before any driver sees it.</summary>
internal static class PrecopyInfoArgument
{
    /// <param name="hasFlags">MIG_PRECOPY_INFOv2 is on; else the flags go back as they came.</param>
    public static Errno Read(uint request, ReadOnlySpan<byte> argument, bool hasFlags, out VfioPrecopyInfo info)
    {
        info = default;
        if (request != VfioRequests.MigGetPrecopyInfo.Value)
            return Errno.ENOTTY;
        if (!VfioArgument.TryRead(argument, (int)VfioPrecopyInfo.MinimumSize, out info))
            return Errno.EFAULT;
        if (info.Argsz < VfioPrecopyInfo.MinimumSize)
            return Errno.EINVAL;
        if (hasFlags)
            info.Flags = VfioPrecopyInfoFlags.None;
        return Errno.Success;
    }
}
