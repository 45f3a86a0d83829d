using Tidemark.Memory;

namespace Tidemark.Kernel;

/// <summary>
/// Memory obtained with mmap through a kernel, and the duty to unmap it. Buffers that ioctl arguments point to live in
/// one of these. Page aligned, and no other object shares its pages: the kernel may write to the end of the last page.
/// </summary>
public sealed partial class Mapping : IDisposable
{
    private ulong _byteLength;

    private Mapping(IKernel kernel, HostAddress address, ulong byteLength)
    {
        Kernel = kernel;
        Address = address;
        _byteLength = byteLength;
    }

    ~Mapping() => Release();

    public IKernel Kernel { get; }

    public HostAddress Address { get; }

    /// <summary>Length in bytes; 0 after <see cref="Dispose"/>.</summary>
    public ulong ByteLength => Volatile.Read(ref _byteLength);

    /// <summary>Anonymous zeroed memory, rounded up to whole pages.</summary>
    /// <exception cref="KernelException">The kernel refused; nothing is mapped.</exception>
    public static Mapping CreateAnonymous(IKernel kernel, ulong byteLength)
    {
        ulong rounded = checked((byteLength + GuestPage.Size - 1) / GuestPage.Size * GuestPage.Size);
        return Create(kernel, rounded, MemoryProtection.Read | MemoryProtection.Write,
            MapFlags.Private | MapFlags.Anonymous, fd: -1, offset: 0);
    }

    /// <summary>Part of a file or device.</summary>
    /// <exception cref="KernelException">The kernel refused; nothing is mapped.</exception>
    public static Mapping CreateShared(
        KernelFd file, ulong byteLength, ulong offset, MemoryProtection protection, MapFlags more = default)
    {
        ArgumentNullException.ThrowIfNull(file);
        return Create(file.Kernel, byteLength, protection, MapFlags.Shared | more, file.Number, offset);
    }

    /// <summary>Unmaps. Never throws.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private static Mapping Create(
        IKernel kernel, ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        SyscallResult result = kernel.Mmap(byteLength, protection, flags, fd, offset);
        if (!result.Succeeded)
            throw new KernelException($"Mapping {byteLength} bytes of memory", result.Errno);
        return new Mapping(kernel, new HostAddress(unchecked((ulong)result.Value)), byteLength);
    }

    private void Release()
    {
        ulong byteLength = Interlocked.Exchange(ref _byteLength, 0);
        if (byteLength != 0)
            Kernel.Munmap(Address.Value, byteLength);
    }
}
