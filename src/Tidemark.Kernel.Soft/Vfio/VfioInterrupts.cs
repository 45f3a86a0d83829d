using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// The interrupts of an open device: the pin or MSI-X, and the two that its driver has for itself (errors, request to let go),
/// which here nobody raises but DATA_NONE and DATA_BOOL. Calls are made under the device's gate.
/// </summary>
internal sealed class VfioInterrupts
{
    private readonly SoftDeviceModel _model;
    private readonly VfioIntx _intx;
    private readonly InterruptLine[] _vectors;
    private readonly InterruptLine _error;
    private readonly InterruptLine _request;
    private bool _msixEnabled;

    public VfioInterrupts(SoftDeviceModel model, IKernel host, EventfdWatcher watcher)
    {
        _intx = new VfioIntx(model, host, watcher);
        _model = model;
        _vectors = new InterruptLine[model.MsixVectors];
        for (int vector = 0; vector < _vectors.Length; vector++)
            _vectors[vector] = new InterruptLine(host);
        _error = new InterruptLine(host);
        _request = new InterruptLine(host);
    }

    /// <summary>VFIO_DEVICE_GET_IRQ_INFO.</summary>
    public Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioIrqInfo.MinimumSize, out VfioIrqInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioIrqInfo.MinimumSize || info.Index >= (uint)VfioPciIrqIndex.Count)
            return Errno.EINVAL;
        info.Flags = VfioIrqInfoFlags.Eventfd;
        switch ((VfioPciIrqIndex)info.Index)
        {
            case VfioPciIrqIndex.Intx:
                info.Flags |= VfioIrqInfoFlags.Maskable | VfioIrqInfoFlags.Automasked;
                break;
            case VfioPciIrqIndex.Msix:
                // Vectors may be added while others are in use.
                break;
            default:
                info.Flags |= VfioIrqInfoFlags.Noresize;
                break;
        }

        info.Count = LineCount(info.Index);
        VfioArgument.Write(argument, info, (int)VfioIrqInfo.MinimumSize);
        return Errno.Success;
    }

    /// <summary>VFIO_DEVICE_SET_IRQS.</summary>
    public Errno Set(ReadOnlySpan<byte> argument)
    {
        Errno errno = IrqSetArgument.Read(argument, LineCount, out VfioIrqSet set, out ReadOnlySpan<byte> data);
        if (errno != Errno.Success)
            return errno;
        VfioIrqSetFlags action = set.Flags & ActionTypeMask;
        return ((VfioPciIrqIndex)set.Index, action) switch
        {
            (VfioPciIrqIndex.Intx, ActionMask) => _intx.Mask(set, data),
            (VfioPciIrqIndex.Intx, ActionUnmask) => _intx.Unmask(set, data),
            (VfioPciIrqIndex.Intx, ActionTrigger) => _intx.Trigger(set, data, othersInUse: _msixEnabled),
            (VfioPciIrqIndex.Msix, ActionTrigger) => TriggerMsix(set, data),
            (VfioPciIrqIndex.Err, ActionTrigger) => TriggerOwn(_error, set, data),
            (VfioPciIrqIndex.Req, ActionTrigger) => TriggerOwn(_request, set, data),
            _ => Errno.ENOTTY,
        };
    }

    /// <summary>Nothing signals any more; every duplicate is closed.</summary>
    public void DisableAll()
    {
        DisableMsix();
        _intx.Disable();
        _error.Set(-1);
        _request.Set(-1);
    }

    /// <summary>The model was reset: what its vectors signal outlives that, as a driver restores it.</summary>
    public void Restore()
    {
        _intx.Restore();
        for (uint vector = 0; vector < _vectors.Length; vector++)
        {
            if (_vectors[vector].IsSet)
                _model.SetInterrupt(vector, _vectors[vector].Raise);
        }
    }

    private static int Descriptor(ReadOnlySpan<byte> data, uint index) =>
        BinaryPrimitives.ReadInt32LittleEndian(data[(int)(index * sizeof(int))..]);

    private static Errno TriggerOwn(InterruptLine line, VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        if (set.Start != 0 || set.Count > 1)
            return Errno.EINVAL;
        switch (set.Flags & DataTypeMask)
        {
            case DataEventfd when set.Count == 1:
                int descriptor = Descriptor(data, 0);
                // Below -1 is neither a descriptor nor "none": nothing happens, successfully.
                return descriptor < -1 ? Errno.Success : line.Set(descriptor);
            case DataNone when line.IsSet && set.Count == 0:
                return line.Set(-1);
            case DataNone when line.IsSet:
                line.Raise();
                return Errno.Success;
            case DataBool when line.IsSet && set.Count == 1:
                if (data[0] != 0)
                    line.Raise();
                return Errno.Success;
            default:
                return Errno.EINVAL;
        }
    }

    private uint LineCount(uint index) => (VfioPciIrqIndex)index switch
    {
        VfioPciIrqIndex.Intx => _model.HasIntx ? 1u : 0,
        VfioPciIrqIndex.Msix => (uint)_vectors.Length,
        VfioPciIrqIndex.Err or VfioPciIrqIndex.Req => 1,
        _ => 0,
    };

    private Errno TriggerMsix(VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (_intx.IsEnabled)
            return Errno.EINVAL;
        if (kind == DataEventfd)
            return SetVectors(set, data);
        // ORDER: also disabling what is not enabled is EINVAL.
        if (!_msixEnabled)
            return Errno.EINVAL;
        if (kind == DataNone && set.Count == 0)
        {
            DisableMsix();
            return Errno.Success;
        }

        for (uint index = 0; index < set.Count; index++)
        {
            if (kind == DataNone || data[(int)index] != 0)
                _vectors[set.Start + index].Raise();
        }

        return Errno.Success;
    }

    private Errno SetVectors(VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        bool wasEnabled = _msixEnabled;
        _msixEnabled = true;
        _model.SetMsix(true);
        for (uint index = 0; index < set.Count; index++)
        {
            Errno errno = SetVector(set.Start + index, Descriptor(data, index));
            if (errno == Errno.Success)
                continue;
            // The vectors of this call that were set before the bad one end up without an eventfd.
            for (uint undone = 0; undone < index; undone++)
                SetVector(set.Start + undone, -1);
            if (!wasEnabled)
                DisableMsix();
            return errno;
        }

        return Errno.Success;
    }

    private Errno SetVector(uint vector, int eventfd)
    {
        Errno errno = _vectors[vector].Set(eventfd);
        if (errno == Errno.Success)
            _model.SetInterrupt(vector, eventfd < 0 ? null : _vectors[vector].Raise);
        return errno;
    }

    private void DisableMsix()
    {
        if (!_msixEnabled)
            return;
        for (uint vector = 0; vector < _vectors.Length; vector++)
            SetVector(vector, -1);
        _msixEnabled = false;
        _model.SetMsix(false);
    }
}
