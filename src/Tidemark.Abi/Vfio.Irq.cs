using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>How an interrupt index behaves (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_IRQ_INFO_*", Since = "3.6")]
public enum VfioIrqInfoFlags : uint
{
    None = 0,
    Eventfd = 1,
    Maskable = 2,
    Automasked = 4,

    /// <summary>The whole set must be disabled before more vectors can be enabled.</summary>
    Noresize = 8,
}

/// <summary>Describes one interrupt index (C: vfio_irq_info, linux/vfio.h).</summary>
[Uapi("vfio_irq_info", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIrqInfo : IIoctlArgument<VfioIrqInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 16;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Argsz;
    public VfioIrqInfoFlags Flags;
    public uint Index;
    public uint Count;

    public static IoctlRequest Request => VfioRequests.DeviceGetIrqInfo;

    public static VfioIrqInfo Create(uint index) => new()
    {
        Argsz = StructSize,
        Index = index,
    };
}

/// <summary>Exactly one of Data and one of Action (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_IRQ_SET_*", Since = "3.6")]
public enum VfioIrqSetFlags : uint
{
    None = 0,
    DataNone = 1,
    DataBool = 2,
    DataEventfd = 4,
    ActionMask = 8,
    ActionUnmask = 0x10,
    ActionTrigger = 0x20,
    DataTypeMask = 7,
    ActionTypeMask = 0x38,
}

/// <summary>
/// Heads an interrupt change; one byte or one s32 descriptor per interrupt follows (C: vfio_irq_set, linux/vfio.h).
/// Count 0 with no data and trigger disables the index.
/// </summary>
[Uapi("vfio_irq_set", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIrqSet : IIoctlArgument<VfioIrqSet>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 20;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 20;

    public uint Argsz;
    public VfioIrqSetFlags Flags;
    public uint Index;
    public uint Start;
    public uint Count;

    public static IoctlRequest Request => VfioRequests.DeviceSetIrqs;

    public static VfioIrqSet Create(
        VfioIrqSetFlags flags, uint index, uint start, uint count, uint dataLength = 0) => new()
    {
        Argsz = StructSize + dataLength,
        Flags = flags,
        Index = index,
        Start = start,
        Count = count,
    };
}

/// <summary>The interrupts of a PCI device (linux/vfio.h).</summary>
[Uapi("VFIO_PCI_*_IRQ_INDEX", Since = "3.6")]
public enum VfioPciIrqIndex : uint
{
    Intx = 0,
    Msi = 1,
    Msix = 2,
    Err = 3,
    Req = 4,
    [Uapi("VFIO_PCI_NUM_IRQS")]
    Count = 5,
}
