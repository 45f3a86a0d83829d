using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Vfio;

/// <summary>VFIO_DEVICE_SET_IRQS, whose argument is a header and one descriptor for each interrupt.</summary>
internal static class VfioInterrupts
{
    /// <summary>LIMIT: MSI-X has at most 2048 vectors.</summary>
    private const int MaximumVectors = 2048;

    public static void SetTriggers(VfioDevice device, uint index, uint start, ReadOnlySpan<int> eventfds)
    {
        ArgumentOutOfRangeException.ThrowIfZero(eventfds.Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(eventfds.Length, MaximumVectors);
        Span<byte> argument = new byte[(int)VfioIrqSet.StructSize + (eventfds.Length * sizeof(int))];
        WriteHeader(
            argument, VfioIrqSetFlags.DataEventfd | VfioIrqSetFlags.ActionTrigger, index, start, (uint)eventfds.Length);
        for (int position = 0; position < eventfds.Length; position++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(
                argument[((int)VfioIrqSet.StructSize + (position * sizeof(int)))..], eventfds[position]);
        }

        Call(device, argument)
            .ThrowIfFailed($"Connecting {eventfds.Length} interrupts of {device.Name} from {start} of index {index}");
    }

    public static void DisableAll(VfioDevice device, uint index)
    {
        Span<byte> argument = stackalloc byte[(int)VfioIrqSet.StructSize];
        // UAPI: vfio.h, VFIO_DEVICE_SET_IRQS: count 0, no data and the trigger action disable the whole index.
        WriteHeader(argument, VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, index, start: 0, count: 0);
        Call(device, argument).ThrowIfFailed($"Disabling the interrupts of {device.Name}, index {index}");
    }

    private static void WriteHeader(Span<byte> argument, VfioIrqSetFlags flags, uint index, uint start, uint count)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(argument, (uint)argument.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(argument[4..], (uint)flags);
        BinaryPrimitives.WriteUInt32LittleEndian(argument[8..], index);
        BinaryPrimitives.WriteUInt32LittleEndian(argument[12..], start);
        BinaryPrimitives.WriteUInt32LittleEndian(argument[16..], count);
    }

    private static SyscallResult Call(VfioDevice device, Span<byte> argument) =>
        device.Kernel.Ioctl(device.Fd.Number, VfioRequests.DeviceSetIrqs.Value, argument);
}
