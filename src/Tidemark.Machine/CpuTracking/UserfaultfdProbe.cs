using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Machine.CpuTracking;

/// <summary>The two ways to a userfaultfd, and the handshake without which it does nothing.</summary>
internal static class UserfaultfdProbe
{
    private const UserfaultfdFlags OpenFlagsOfUserfaultfd = UserfaultfdFlags.CloseOnExec | UserfaultfdFlags.NonBlock;

    /// <summary>A userfaultfd with these features, or null with the calls that were refused.</summary>
    internal static KernelFd? TryOpen(IKernel kernel, UffdFeatures features, out string failure)
    {
        // User mode only: allowed to everybody, and enough, because asynchronous protection is resolved in the kernel
        // also when the kernel itself writes (a read(2) into guest memory).
        SyscallResult result = kernel.Userfaultfd((uint)(OpenFlagsOfUserfaultfd | UserfaultfdFlags.UserModeOnly));
        if (!result.Succeeded)
        {
            Errno first = result.Errno;
            result = OpenThroughDevice(kernel, out string second);
            if (!result.Succeeded)
            {
                failure = $"userfaultfd(2) answered {first} and {second} answered {result.Errno}";
                return null;
            }
        }

        var userfaultfd = new KernelFd(kernel, (int)result.Value);
        var handshake = UffdioApi.Create(features);
        SyscallResult agreed = kernel.Ioctl(userfaultfd, ref handshake);
        if (agreed.Succeeded && (handshake.Features & features) == features)
        {
            failure = "";
            return userfaultfd;
        }

        userfaultfd.Dispose();
        failure = agreed.Succeeded
            ? $"UFFDIO_API offers 0x{(ulong)handshake.Features:x} and lacks some of 0x{(ulong)features:x}"
            : $"UFFDIO_API with asynchronous write protection answered {agreed.Errno}";
        return null;
    }

    private static SyscallResult OpenThroughDevice(IKernel kernel, out string call)
    {
        const string Path = "/dev/userfaultfd";
        call = $"opening {Path}";
        SyscallResult opened = kernel.Open(Path, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!opened.Succeeded)
            return opened;
        using var device = new KernelFd(kernel, (int)opened.Value);
        call = "USERFAULTFD_IOC_NEW";
        return kernel.IoctlValue(
            device.Number, UserfaultfdRequests.New.Value, (ulong)OpenFlagsOfUserfaultfd);
    }
}
