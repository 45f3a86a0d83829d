using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// The interrupt pin of an open device. It is a level: a signal masks it, and unmasking signals again while the device
/// still holds it.
/// </summary>
/// <remarks>
/// <code>
/// off --eventfd--> unmasked --device asserts: signal--> masked --unmask: deasserted--> unmasked
///                                                         ^--- unmask: still asserted: signal ---'
/// </code>
/// Calls are made under the device's gate; the device asserts from its own thread.
/// </remarks>
internal sealed class VfioIntx(SoftDeviceModel model, IKernel host, EventfdWatcher watcher)
{
    private readonly InterruptLine _line = new(host);
    private readonly Lock _gate = new();
    private bool _masked;
    private object? _unmask;

    /// <summary>It is the kind of interrupt in use, with an eventfd or without.</summary>
    public bool IsEnabled { get; private set; }

    public Errno Mask(VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        if (!IsEnabled || set.Start != 0 || set.Count != 1)
            return Errno.EINVAL;
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (kind == DataEventfd)
            return Errno.ENOTTY;
        if (kind == DataNone || data[0] != 0)
        {
            lock (_gate)
                _masked = true;
        }

        return Errno.Success;
    }

    public Errno Unmask(VfioIrqSet set, ReadOnlySpan<byte> data)
    {
        if (!IsEnabled || set.Start != 0 || set.Count != 1)
            return Errno.EINVAL;
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (kind == DataEventfd)
            return UnmaskOn(BinaryPrimitives.ReadInt32LittleEndian(data));
        if (kind == DataNone || data[0] != 0)
            Unmask();
        return Errno.Success;
    }

    /// <param name="othersInUse">MSI-X is enabled: then the pin can not be.</param>
    public Errno Trigger(VfioIrqSet set, ReadOnlySpan<byte> data, bool othersInUse)
    {
        VfioIrqSetFlags kind = set.Flags & DataTypeMask;
        if (IsEnabled && set.Count == 0 && kind == DataNone)
        {
            Disable();
            return Errno.Success;
        }

        if (othersInUse || set.Start != 0 || set.Count != 1)
            return Errno.EINVAL;
        if (kind == DataEventfd)
        {
            Errno errno = _line.Set(Math.Max(-1, BinaryPrimitives.ReadInt32LittleEndian(data)));
            if (errno != Errno.Success || IsEnabled)
                return errno;
            IsEnabled = true;
            lock (_gate)
                _masked = false;
            model.SetIntx(Assert);
            return Errno.Success;
        }

        if (!IsEnabled)
            return Errno.EINVAL;
        // A test of the eventfd: the pin's own state is not looked at.
        if (kind == DataNone || data[0] != 0)
            _line.Raise();
        return Errno.Success;
    }

    public void Disable()
    {
        if (!IsEnabled)
            return;
        IsEnabled = false;
        model.SetIntx(null);
        if (_unmask is not null)
            watcher.Remove(_unmask);
        _unmask = null;
        _line.Set(-1);
    }

    /// <summary>The model was reset: its pin signals as before.</summary>
    public void Restore()
    {
        if (IsEnabled)
            model.SetIntx(Assert);
    }

    private void Assert()
    {
        lock (_gate)
        {
            if (_masked)
                return;
            _masked = true;
        }

        _line.Raise();
    }

    private void Unmask()
    {
        // ORDER: unmasked first, then looked at; a device that asserts in between signals by itself.
        lock (_gate)
            _masked = false;
        if (model.IsIntxAsserted)
            Assert();
    }

    private Errno UnmaskOn(int eventfd)
    {
        if (eventfd >= 0)
            return _unmask is null ? watcher.Add(eventfd, Unmask, out _unmask) : Errno.EBUSY;
        if (_unmask is not null)
            watcher.Remove(_unmask);
        _unmask = null;
        return Errno.Success;
    }
}
