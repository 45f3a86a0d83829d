using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>Typed calls over the bytes of <see cref="IKernel"/>: the struct determines the request.</summary>
public static class KernelCalls
{
    /// <summary>
    /// An ioctl whose request follows from the type of its argument. Out fields are in the argument afterwards.
    /// </summary>
    public static SyscallResult Ioctl<T>(this IKernel kernel, KernelFd fd, ref T argument)
        where T : unmanaged, IIoctlArgument<T>
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(fd);
        bool held = false;
        try
        {
            // A close on another thread waits until the call is over: its number must not become another file's
            // meanwhile.
            fd.DangerousAddRef(ref held);
            // SAFETY: T is unmanaged; the span covers exactly the caller's variable during the call.
            return kernel.Ioctl(
                fd.Number, T.Request.Value, MemoryMarshal.AsBytes(new Span<T>(ref argument)));
        }
        catch (ObjectDisposedException) when (!held)
        {
            // Nothing was asked of the kernel.
            return SyscallResult.Fail(Errno.EBADF);
        }
        finally
        {
            if (held)
                fd.DangerousRelease();
        }
    }
}
