using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>What the VFIO layer asks of the soft kernel around it. Calls come from any thread.</summary>
internal interface IVfioHost
{
    /// <summary>The kernel below: eventfds are its descriptors.</summary>
    IKernel Host { get; }

    /// <summary>Finds an iommufd by descriptor. EBADF: not open; EBADFD: open, but something else.</summary>
    Errno FindIommu(int descriptor, out IIommuBinder? iommu);

    /// <summary>
    /// Gives a file its first descriptor, close-on-exec. Value: the descriptor. On failure (EMFILE) the file stays the
    /// caller's and was not released.
    /// </summary>
    SyscallResult Install(SoftFile file);

    /// <summary>Gives a device's region a place in the physical address space. False: there is none left.</summary>
    bool TryPlace(IPeerTarget region, out ulong physical);

    /// <summary>
    /// Copies in from the caller's memory; false (EFAULT) when a byte of it is not the caller's to read.
    /// </summary>
    bool TryReadUser(ulong address, Span<byte> into);

    /// <summary>
    /// Copies out to the caller's memory; false (EFAULT) when a byte of it is not the caller's to write.
    /// </summary>
    bool TryWriteUser(ulong address, ReadOnlySpan<byte> from);
}

/// <summary>An iommufd context as a device sees it that wants to be bound.</summary>
internal interface IIommuBinder
{
    /// <summary>
    /// Makes a device object for the device behind <paramref name="port"/>. Null exactly when it fails.
    /// </summary>
    Errno Bind(IDmaPort port, out IBoundDevice? bound);

    /// <summary>
    /// Makes an access for an emulated device (mdev), unattached; <see cref="AccessDevice"/> makes a bound device of
    /// it. EBADF: the context has ended.
    /// </summary>
    /// <param name="owner">Is told to let go.</param>
    /// <param name="pinsPages">As for every emulated device; it then works in whole pages.</param>
    Errno BindAccess(IIoasAccessOwner owner, bool pinsPages, out IoasAccess? access);
}
