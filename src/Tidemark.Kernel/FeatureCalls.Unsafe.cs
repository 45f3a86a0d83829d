using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>Typed calls of VFIO_DEVICE_FEATURE: the payload's type determines the feature and the lengths.</summary>
public static class FeatureCalls
{
    /// <summary>
    /// One feature call with its payload behind the header. What the kernel wrote is in <paramref name="payload"/>
    /// afterwards, also when the call failed (MIG_DEVICE_STATE answers its descriptor that way).
    /// </summary>
    public static unsafe SyscallResult Feature<T>(
        this IKernel kernel, KernelFd device, VfioDeviceFeatureFlags operation, ref T payload)
        where T : unmanaged, IVfioDeviceFeature<T>
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(device);
        const int HeaderSize = (int)VfioDeviceFeature.StructSize;
        VfioDeviceFeature header = VfioDeviceFeature.Create(T.Feature, operation, (uint)sizeof(T));
        Span<byte> argument = stackalloc byte[HeaderSize + sizeof(T)];
        // SAFETY: both types are unmanaged and the span is exactly as long as the two together.
        MemoryMarshal.Write(argument, in header);
        MemoryMarshal.Write(argument[HeaderSize..], in payload);
        SyscallResult result = kernel.Ioctl(device.Number, VfioDeviceFeature.Request.Value, argument);
        payload = MemoryMarshal.Read<T>(argument[HeaderSize..]);
        GC.KeepAlive(device);
        return result;
    }
}
