using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>An open <c>/dev/iommu</c>, or <c>/dev/vfio/vfio</c> where iommufd imitates it.</summary>
internal sealed class IommufdFile(SoftKernel kernel, bool isContainer) : SoftFile
{
    public override string Kind => "iommufd";

    public IommufdContext Context { get; } = kernel.CreateIommufd(isContainer);

    public override SyscallResult Ioctl(uint request, Span<byte> argument) => Context.Ioctl(request, argument);

    /// <summary>FIDELITY: the number would be an address; no structure is read from one, so it is always a bad
    /// one.</summary>
    public override SyscallResult IoctlValue(uint request, ulong argument) =>
        Context.IsInTable(request)
            ? SyscallResult.Fail(Errno.EFAULT)
            : Context.CompatibilityIoctl(request, argument);

    /// <summary>Only a vIOMMU has something to map.</summary>
    public override SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset,
        out IMappingOwner? owner)
    {
        SyscallResult resolved = Context.ResolveMmap(
            byteLength, protection, offset, out MemoryObject? page, out owner);
        hostFd = page?.HostFd ?? -1;
        hostOffset = 0;
        return resolved;
    }

    public override void Release() => Context.Drop();
}

/// <summary>The dispatch of requests.</summary>
/// <remarks>
/// <code>
/// number in table? - size readable? - whole number right? - size >= minimum? - tail beyond the struct zero? -
/// body readable? - handler - write back
///   ENOTTY           EFAULT             ENOTTY                EINVAL              E2BIG   EFAULT
/// </code>
/// </remarks>
internal sealed partial class IommufdContext
{
    private const uint FirstRequest = 0x80;
    private const uint LastRequest = 0x95;

    /// <summary>IOMMU_TEST_CMD, with which a kernel built for it drives devices of its own.</summary>
    private const uint TestRequest = 0xA0;
    private const uint RequestType = 0x3B00;

    private delegate Errno Handler<T>(IommufdContext context, ref T command);

    /// <summary>Other numbers are requests of a VFIO container.</summary>
    public bool IsInTable(uint request) =>
        (request & 0xFF) is >= FirstRequest and var number
        && number <= (_kernel.HasTestDomain ? TestRequest : LastRequest);

    public SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        if (!IsInTable(request))
            return CompatibilityIoctl(request, argument);
        if (argument.Length < sizeof(uint))
            return SyscallResult.Fail(Errno.EFAULT);
        // A test kernel's table has a gap before its last entry.
        if (request != (RequestType | (request & 0xFF)) || (request & 0xFF) is > LastRequest and < TestRequest)
            return SyscallResult.Fail(Errno.ENOTTY);
        if ((request & 0xFF) == TestRequest)
            return RunTest(argument);
        Errno errno = (request & 0xFF) switch
        {
            0x80 => Run<IommuDestroy>(argument, IommuDestroy.MinimumSize,
                static (context, ref command) => context.Destroy(ref command)),
            0x81 => Run<IommuIoasAlloc>(argument, IommuIoasAlloc.MinimumSize,
                static (context, ref command) => context.AllocateIoas(ref command)),
            0x82 => Run<IommuIoasAllowIovas>(argument, IommuIoasAllowIovas.MinimumSize,
                static (context, ref command) => context.AllowIovas(ref command)),
            0x83 => Run<IommuIoasCopy>(argument, IommuIoasCopy.MinimumSize,
                static (context, ref command) => context.Copy(ref command)),
            0x84 => Run<IommuIoasIovaRanges>(argument, IommuIoasIovaRanges.MinimumSize,
                static (context, ref command) => context.IovaRanges(ref command)),
            0x85 => Run<IommuIoasMap>(argument, IommuIoasMap.MinimumSize,
                static (context, ref command) => context.Map(ref command)),
            0x86 => Run<IommuIoasUnmap>(argument, IommuIoasUnmap.MinimumSize,
                static (context, ref command) => context.Unmap(ref command)),
            0x87 => Run<IommuOption>(argument, IommuOption.MinimumSize,
                static (context, ref command) => context.Option(ref command)),
            0x88 => Run<IommuVfioIoas>(argument, IommuVfioIoas.MinimumSize,
                static (context, ref command) => context.CompatibilityIoas(ref command)),
            0x89 => Run<IommuHwptAlloc>(argument, IommuHwptAlloc.MinimumSize,
                static (context, ref command) => context.AllocateHwpt(ref command)),
            0x8A => Run<IommuHwInfo>(argument, IommuHwInfo.MinimumSize,
                static (context, ref command) => context.GetHwInfo(ref command)),
            0x8B => Run<IommuHwptSetDirtyTracking>(argument, IommuHwptSetDirtyTracking.MinimumSize,
                static (context, ref command) => context.SetDirtyTracking(ref command)),
            0x8C => Run<IommuHwptGetDirtyBitmap>(argument, IommuHwptGetDirtyBitmap.MinimumSize,
                static (context, ref command) => context.GetDirtyBitmap(ref command)),
            0x8D => Run<IommuHwptInvalidate>(argument, IommuHwptInvalidate.MinimumSize,
                static (context, ref command) => context.Invalidate(ref command)),
            0x8E => Run<IommuFaultAlloc>(argument, IommuFaultAlloc.MinimumSize,
                static (context, ref command) => context.AllocateFaultQueue(ref command)),
            0x8F => Run<IommuIoasMapFile>(argument, IommuIoasMapFile.MinimumSize,
                static (context, ref command) => context.MapFile(ref command)),
            0x90 => Run<IommuViommuAlloc>(argument, IommuViommuAlloc.MinimumSize,
                static (context, ref command) => context.AllocateViommu(ref command)),
            0x91 => Run<IommuVdeviceAlloc>(argument, IommuVdeviceAlloc.MinimumSize,
                static (context, ref command) => context.AllocateVdevice(ref command)),
            0x92 => Run<IommuIoasChangeProcess>(argument, IommuIoasChangeProcess.MinimumSize,
                static (context, ref command) => context.ChangeProcess(ref command)),
            0x93 => Run<IommuVeventqAlloc>(argument, IommuVeventqAlloc.MinimumSize,
                static (context, ref command) => context.AllocateEventQueue(ref command)),
            0x94 => Run<IommuHwQueueAlloc>(argument, IommuHwQueueAlloc.MinimumSize,
                static (context, ref command) => context.AllocateHardwareQueue(ref command)),
            _ => Run<IommuIoasNoiommuGetPa>(argument, IommuIoasNoiommuGetPa.MinimumSize,
                static (context, ref command) => context.GetPhysical(ref command)),
        };
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    private Errno Run<T>(Span<byte> argument, uint minimumSize, Handler<T> handler)
        where T : unmanaged
    {
        Errno errno = Take(argument, minimumSize, out T command, out int given);
        if (errno != Errno.Success)
            return errno;
        lock (Gate)
            errno = handler(this, ref command);
        // The count is worth something after these failures too.
        if (errno is Errno.Success or Errno.EMSGSIZE || command is IommuHwptInvalidate)
            StructBytes.Of(ref command)[..given].CopyTo(argument);
        return errno;
    }

    /// <summary>Copies an argument in; what it leaves out is zero.</summary>
    /// <param name="given">Bytes of the struct that the caller gave, and gets back.</param>
    private static Errno Take<T>(Span<byte> argument, uint minimumSize, out T command, out int given)
        where T : unmanaged
    {
        command = default;
        given = 0;
        uint size = BinaryPrimitives.ReadUInt32LittleEndian(argument);
        if (size < minimumSize)
            return Errno.EINVAL;
        Span<byte> body = StructBytes.Of(ref command);
        given = (int)Math.Min(size, (uint)body.Length);
        if (size > body.Length)
        {
            int readable = (int)Math.Min(size, (uint)argument.Length);
            if (readable > body.Length && argument[body.Length..readable].ContainsAnyExcept((byte)0))
                return Errno.E2BIG;
            if (readable < size)
                return Errno.EFAULT;
        }

        if (given > argument.Length)
            return Errno.EFAULT;
        argument[..given].CopyTo(body);
        return Errno.Success;
    }
}
