using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Files;

/// <summary>
/// An open file of the soft kernel: what a descriptor refers to. Several descriptors may refer to one (dup). Calls come
/// from any thread.
/// </summary>
internal abstract class SoftFile
{
    /// <summary>For messages and descriptor listings: <c>iommufd</c>, <c>vfio-device</c>.</summary>
    public abstract string Kind { get; }

    public virtual SyscallResult Ioctl(uint request, Span<byte> argument) => SyscallResult.Fail(Errno.ENOTTY);

    public virtual SyscallResult IoctlValue(uint request, ulong argument) => SyscallResult.Fail(Errno.ENOTTY);

    public virtual SyscallResult Read(Span<byte> buffer) => SyscallResult.Fail(Errno.EINVAL);

    public virtual SyscallResult Write(ReadOnlySpan<byte> buffer) => SyscallResult.Fail(Errno.EINVAL);

    public virtual SyscallResult Pread(Span<byte> buffer, ulong offset) => SyscallResult.Fail(Errno.ESPIPE);

    public virtual SyscallResult Pwrite(ReadOnlySpan<byte> buffer, ulong offset) => SyscallResult.Fail(Errno.ESPIPE);

    /// <summary>
    /// Which host file and offset a mapping of this file shows; the kernel then maps that. Fails with the errno of
    /// mmap.
    /// </summary>
    public virtual SyscallResult ResolveMmap(ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset)
    {
        hostFd = -1;
        hostOffset = 0;
        return SyscallResult.Fail(Errno.ENODEV);
    }

    /// <summary>As above, for files of which something stays while it is mapped.</summary>
    /// <param name="owner">Has one mapping more, which the caller makes or takes back; null: nobody counts.</param>
    public virtual SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset,
        out IMappingOwner? owner)
    {
        owner = null;
        return ResolveMmap(byteLength, protection, offset, out hostFd, out hostOffset);
    }

    /// <summary>What poll finds. A file without an opinion can always be read and written.</summary>
    public virtual PollEvents Ready => PollEvents.In | PollEvents.Out;

    /// <summary>The last descriptor was closed.</summary>
    public abstract void Release();
}
