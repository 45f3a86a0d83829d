using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Vfio;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>
/// mtty's interrupts: INTx, which masks itself when it signals, or one MSI. Whichever has an eventfd first excludes the
/// other. Calls are made under the device's gate.
/// </summary>
internal sealed class MttyInterrupts(IKernel host)
{
    private readonly InterruptLine _intx = new(host);
    private readonly InterruptLine _msi = new(host);
    private bool _intxMasked;

    /// <summary>
    /// How many interrupt indices SET_IRQS believes in: none before the device's first GET_INFO ever, as in mtty.
    /// </summary>
    public uint KnownIndices { get; set; }

    /// <summary>VFIO_DEVICE_GET_IRQ_INFO.</summary>
    public Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioIrqInfo.MinimumSize, out VfioIrqInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioIrqInfo.MinimumSize || info.Index >= KnownIndices
            || info.Index > (uint)VfioPciIrqIndex.Msi)
            return Errno.EINVAL;
        info.Count = 1;
        info.Flags = VfioIrqInfoFlags.Eventfd | (info.Index == (uint)VfioPciIrqIndex.Intx
            ? VfioIrqInfoFlags.Maskable | VfioIrqInfoFlags.Automasked
            : VfioIrqInfoFlags.Noresize);
        VfioArgument.Write(argument, info, (int)VfioIrqInfo.MinimumSize);
        return Errno.Success;
    }

    /// <summary>VFIO_DEVICE_SET_IRQS.</summary>
    public Errno Set(ReadOnlySpan<byte> argument)
    {
        Errno errno = IrqSetArgument.Read(
            argument, _ => KnownIndices, out VfioIrqSet set, out ReadOnlySpan<byte> data);
        if (errno != Errno.Success)
            return errno;
        VfioIrqSetFlags action = set.Flags & ActionTypeMask;
        return (VfioPciIrqIndex)set.Index switch
        {
            VfioPciIrqIndex.Intx when action is ActionMask or ActionUnmask => Mask(set, data),
            VfioPciIrqIndex.Intx when action == ActionTrigger => Trigger(_intx, _msi, set, data),
            VfioPciIrqIndex.Msi when action is ActionMask or ActionUnmask => Errno.ENOTTY,
            VfioPciIrqIndex.Msi when action == ActionTrigger => Trigger(_msi, _intx, set, data),
            // No action, or two of them: mtty does nothing, successfully.
            VfioPciIrqIndex.Intx or VfioPciIrqIndex.Msi => Errno.Success,
            _ => Errno.ENOTTY,
        };
    }

    /// <summary>The device wants attention.</summary>
    public void Raise()
    {
        if (_msi.IsSet)
        {
            _msi.Raise();
        }
        else if (!_intxMasked)
        {
            _intxMasked = _intx.IsSet;
            _intx.Raise();
        }
    }

    public void DisableAll()
    {
        Disable(_intx);
        Disable(_msi);
    }

    private void Disable(InterruptLine line)
    {
        if (ReferenceEquals(line, _intx) && line.IsSet)
            _intxMasked = false;
        line.Set(-1);
    }

    private Errno Mask(VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        if (!_intx.IsSet || set.Start != 0 || set.Count != 1)
            return Errno.EINVAL;
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (kind == DataEventfd)
            return Errno.ENOTTY;
        if (kind == DataNone || data[0] != 0)
            _intxMasked = (set.Flags & ActionMask) != 0;
        return Errno.Success;
    }

    private Errno Trigger(InterruptLine line, InterruptLine other, VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (line.IsSet && set.Count == 0 && kind == DataNone)
        {
            Disable(line);
            return Errno.Success;
        }

        if (other.IsSet || set.Start != 0 || set.Count != 1)
            return Errno.EINVAL;
        if (kind == DataEventfd)
        {
            // ORDER: the old eventfd goes even when the new one is none.
            Disable(line);
            return line.Set(Math.Max(-1, BinaryPrimitives.ReadInt32LittleEndian(data)));
        }

        if (!line.IsSet)
            return Errno.EINVAL;
        if (kind == DataNone || data[0] != 0)
            Raise();
        return Errno.Success;
    }
}
