using System.Numerics;
using Tidemark.Abi;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>The argument of VFIO_DEVICE_SET_IRQS, checked as every driver checks it.</summary>
internal static class IrqSetArgument
{
    /// <param name="lineCount">How many lines an index has. Asked only about indices of PCI.</param>
    /// <param name="data">The bytes that follow, exactly as many as the set needs.</param>
    public static Errno Read(
        ReadOnlySpan<byte> argument, Func<uint, uint> lineCount, out VfioIrqSet set, out ReadOnlySpan<byte> data)
    {
        data = default;
        if (!VfioArgument.TryRead(argument, (int)VfioIrqSet.MinimumSize, out set))
            return Errno.EFAULT;
        if (set.Argsz < VfioIrqSet.MinimumSize || set.Index >= (uint)VfioPciIrqIndex.Count
            || (set.Flags & ~(DataTypeMask | ActionTypeMask)) != 0)
            return Errno.EINVAL;
        uint lines = lineCount(set.Index);
        if (set.Start >= lines || set.Count > lines - set.Start
            || BitOperations.PopCount((uint)(set.Flags & DataTypeMask)) != 1)
            return Errno.EINVAL;
        uint elementLength = (set.Flags & DataTypeMask) switch
        {
            DataBool => sizeof(byte),
            DataEventfd => sizeof(int),
            _ => 0,
        };
        uint dataLength = elementLength * set.Count;
        if (set.Argsz - VfioIrqSet.MinimumSize < dataLength)
            return Errno.EINVAL;
        if (argument.Length - (int)VfioIrqSet.MinimumSize < dataLength)
            return Errno.EFAULT;
        data = argument.Slice((int)VfioIrqSet.MinimumSize, (int)dataLength);
        return Errno.Success;
    }
}
