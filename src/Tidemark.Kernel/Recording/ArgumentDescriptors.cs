using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Recording;

/// <summary>Where descriptors stand in the arguments of requests.</summary>
/// <remarks>
/// Offsets are those of the uAPI headers. IOMMU_TEST_CMD is in none: its layout is that of Linux's
/// drivers/iommu/iommufd/iommufd_test.h, operations 5 to 8 and 11 of which name an access by its descriptor, and 23 a
/// dma-buf.
/// </remarks>
internal static class ArgumentDescriptors
{
    private const uint TestCommand = 0x3BA0;
    private const int Width = sizeof(int);

    /// <summary>Whether what the request answers is a descriptor.</summary>
    public static bool ResultIsOne(TracedKind kind, uint request, ReadOnlySpan<byte> argument) =>
        TraceIoctl.NameOf(kind, request) switch
        {
            "VFIO_GROUP_GET_DEVICE_FD" or "USERFAULTFD_IOC_NEW" => true,
            "VFIO_DEVICE_FEATURE" => Feature(argument) == VfioDeviceFeatureIndex.DmaBuf,
            _ => false,
        };

    /// <summary>Offsets of descriptors that the caller gives.</summary>
    public static IEnumerable<int> Given(TracedKind kind, uint request, byte[] argument)
    {
        if (kind == TracedKind.Iommufd && request == TestCommand)
        {
            return TestOperation(argument) switch
            {
                6 or 7 or 8 or 11 => [8],
                23 => [16],
                _ => [],
            };
        }

        return TraceIoctl.NameOf(kind, request) switch
        {
            "IOMMU_IOAS_MAP_FILE" => [12],
            "VFIO_GROUP_SET_CONTAINER" => [0],
            "VFIO_DEVICE_BIND_IOMMUFD" => [8],
            "VFIO_DEVICE_IOEVENTFD" => [24],
            "VFIO_DEVICE_PCI_HOT_RESET" => From(12, argument),
            "VFIO_DEVICE_SET_IRQS" when (Flags(argument) & (uint)VfioIrqSetFlags.DataEventfd) != 0 => From(20, argument),
            "VFIO_DEVICE_FEATURE" when Feature(argument) == VfioDeviceFeatureIndex.LowPowerEntryWithWakeup => [8],
            _ => [],
        };
    }

    /// <summary>Offsets of descriptors that the kernel makes.</summary>
    public static IEnumerable<int> Returned(TracedKind kind, uint request, byte[] argument)
    {
        if (kind == TracedKind.Iommufd && request == TestCommand)
            return TestOperation(argument) == 5 ? [16] : [];
        return TraceIoctl.NameOf(kind, request) switch
        {
            "IOMMU_FAULT_QUEUE_ALLOC" => [12],
            "IOMMU_VEVENTQ_ALLOC" => [24],
            "VFIO_DEVICE_FEATURE" when Feature(argument) == VfioDeviceFeatureIndex.MigDeviceState
                && (Flags(argument) & (uint)VfioDeviceFeatureFlags.Set) != 0 => [12],
            _ => [],
        };
    }

    private static uint TestOperation(byte[] argument) => Flags(argument);

    private static VfioDeviceFeatureIndex Feature(ReadOnlySpan<byte> argument) =>
        (VfioDeviceFeatureIndex)(Flags(argument) & (uint)VfioDeviceFeatureFlags.Mask);

    /// <summary>The second 32-bit field: every argument that is looked at has its flags or its operation there.</summary>
    private static uint Flags(ReadOnlySpan<byte> argument) =>
        argument.Length < 8 ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(argument[4..]);

    private static IEnumerable<int> From(int offset, byte[] argument)
    {
        for (; offset <= argument.Length - Width; offset += Width)
            yield return offset;
    }
}
