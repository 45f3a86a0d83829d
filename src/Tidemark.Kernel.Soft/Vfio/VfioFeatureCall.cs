using Tidemark.Abi;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>One VFIO_DEVICE_FEATURE call, its header checked.</summary>
internal readonly ref struct VfioFeatureCall
{
    /// <param name="argsz">The header's.</param>
    /// <param name="payload">What the caller's memory holds after the header; may be shorter than argsz says.</param>
    public VfioFeatureCall(VfioDeviceFeatureFlags flags, uint argsz, Span<byte> payload)
    {
        Flags = flags;
        DeclaredLength = argsz - VfioDeviceFeature.StructSize;
        Payload = payload;
    }

    public VfioDeviceFeatureFlags Flags { get; }

    public VfioDeviceFeatureIndex Index => (VfioDeviceFeatureIndex)(Flags & Mask);

    public bool IsGet => (Flags & Get) != 0;

    /// <summary>Bytes of payload that the caller says there are.</summary>
    public uint DeclaredLength { get; }

    public Span<byte> Payload { get; }

    /// <summary>
    /// Whether to carry the call out. False: it ends here with <paramref name="errno"/>, which is Success for a probe.
    /// </summary>
    /// <param name="offered">Get, Set, or both.</param>
    /// <param name="payloadLength">The least that the payload must hold, in bytes.</param>
    public bool IsToCarry(VfioDeviceFeatureFlags offered, uint payloadLength, out Errno errno)
    {
        VfioDeviceFeatureFlags operation = Flags & (Get | Set);
        bool isProbe = (Flags & Probe) != 0;
        if ((operation & ~offered) != 0)
            errno = Errno.EINVAL;
        else if (isProbe)
            errno = Errno.Success;
        else if (operation == None || DeclaredLength < payloadLength)
            errno = Errno.EINVAL;
        else
            errno = (uint)Payload.Length < payloadLength ? Errno.EFAULT : Errno.Success;
        return errno == Errno.Success && !isProbe;
    }
}
