using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A stream of device state: what data_fd refers to. It belongs to one session; when that ends, every call answers
/// ENODEV until the descriptor is closed. There is no file position to set.
/// </summary>
internal abstract class MigrationDataFile(Lock gate) : SoftFile
{
    public override string Kind => "vfio-migration";

    /// <summary>The device's gate: stream calls reach the model.</summary>
    protected Lock Gate { get; } = gate;

    protected bool Disabled { get; private set; }

    /// <summary>The session ended. Under the gate.</summary>
    public void Disable()
    {
        Disabled = true;
        Drop();
    }

    public override void Release()
    {
        lock (Gate)
            Drop();
    }

    /// <summary>Lets go of what the stream holds.</summary>
    protected abstract void Drop();
}

/// <summary>
/// The stream of a saving session: read only. While the device is in PRE_COPY: the initial state, then whatever
/// changed, which counts as initial again (REINIT) for a caller of MIG_PRECOPY_INFOv2; ENOMSG when there is nothing
/// now. In STOP_COPY: what is left and the final state, then the end.
/// </summary>
internal sealed class SavingDataFile(MigrationStateMachine machine, SoftDeviceModel model, Lock gate, byte[] initial)
    : MigrationDataFile(gate)
{
    private byte[] _initial = initial;
    private int _initialRead;
    private byte[] _changed = [];
    private int _changedRead;
    private bool _changedIsInitial;
    private bool _reinitUntold;
    private byte[] _final = [];
    private int _finalRead;
    private ReadOnlyMemory<byte> _memory;
    private int _memoryRead;
    private bool _finished;

    /// <summary>The last part; the stream then ends. Under the gate.</summary>
    public void Finish(byte[] final)
    {
        _final = final;
        _memory = model.FinalMemory;
        _finished = true;
    }

    public override SyscallResult Read(Span<byte> buffer)
    {
        lock (Gate)
        {
            if (Disabled)
                return SyscallResult.Fail(Errno.ENODEV);
            int copied = Take(_initial, ref _initialRead, buffer);
            copied += Take(_changed, ref _changedRead, buffer[copied..]);
            copied += Take(_final, ref _finalRead, buffer[copied..]);
            copied += Take(_memory, ref _memoryRead, buffer[copied..]);
            if (copied == 0 && buffer.Length > 0 && !_finished)
            {
                Refill();
                copied = Take(_changed, ref _changedRead, buffer);
                if (copied == 0)
                    return SyscallResult.Fail(Errno.ENOMSG);
            }

            return SyscallResult.Ok(copied);
        }
    }

    public override SyscallResult Write(ReadOnlySpan<byte> buffer) => SyscallResult.Fail(Errno.EBADF);

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        // Drivers without PRE_COPY have no ioctl on this file at all.
        if (!machine.Flags.HasFlag(VfioMigrationFlags.PreCopy))
            return SyscallResult.Fail(Errno.ENOTTY);
        Errno errno = PrecopyInfoArgument.Read(
            request, argument, machine.PrecopyInfoHasFlags, out VfioPrecopyInfo info);
        if (errno != Errno.Success)
            return SyscallResult.Fail(errno);
        lock (Gate)
        {
            // ORDER: the device's state is looked at before the session's.
            if (!machine.IsPreCopying)
                return SyscallResult.Fail(Errno.EINVAL);
            if (Disabled)
                return SyscallResult.Fail(Errno.ENODEV);
            Refill();
            ulong changed = (ulong)(_changed.Length - _changedRead);
            info.InitialBytes = (ulong)(_initial.Length - _initialRead) + (_changedIsInitial ? changed : 0);
            info.DirtyBytes = _changedIsInitial ? 0 : changed;
            if (_reinitUntold)
                info.Flags |= VfioPrecopyInfoFlags.Reinit;
            _reinitUntold = false;
        }

        VfioArgument.Write(argument, info, (int)VfioPrecopyInfo.MinimumSize);
        return SyscallResult.Ok();
    }

    public override SyscallResult IoctlValue(uint request, ulong argument) => Ioctl(request, []);

    protected override void Drop()
    {
        // A dropped stream reads as consumed; its session may go on, so the position must stay valid.
        (_initial, _changed, _final) = ([], [], []);
        _memory = default;
        (_initialRead, _changedRead, _finalRead, _memoryRead) = (0, 0, 0, 0);
    }

    private static int Take(ReadOnlyMemory<byte> part, ref int position, Span<byte> buffer)
    {
        int count = Math.Min(part.Length - position, buffer.Length);
        part.Span.Slice(position, count).CopyTo(buffer);
        position += count;
        return count;
    }

    /// <summary>
    /// Asks the model for what changed, but only once everything before it is read: the stream can not pile up.
    /// </summary>
    private void Refill()
    {
        if (_finished || _initialRead < _initial.Length || _changedRead < _changed.Length)
            return;
        _changed = model.SaveChanged();
        _changedRead = 0;
        // What changes before the end is how the device is set up: for a caller who knows of it, a new beginning.
        _changedIsInitial = machine.PrecopyInfoHasFlags;
        _reinitUntold |= _changedIsInitial && _changed.Length > 0;
    }
}

/// <summary>
/// The stream of a resuming session: write only. It is checked and loaded when the device leaves RESUMING.
/// </summary>
/// <param name="usualLength">Room that is there, and touched, before the first byte comes.</param>
/// <param name="maximumLength">LIMIT: a stream longer than this is refused with ENOMEM.</param>
internal sealed class ResumingDataFile(Lock gate, ulong usualLength, ulong maximumLength) : MigrationDataFile(gate)
{
    private byte[] _received = MakeRoom(usualLength);
    private int _length;

    /// <summary>Everything written. Under the gate.</summary>
    public ReadOnlySpan<byte> Received => _received.AsSpan(0, _length);

    public override SyscallResult Read(Span<byte> buffer) => SyscallResult.Fail(Errno.EBADF);

    public override SyscallResult Write(ReadOnlySpan<byte> buffer)
    {
        lock (Gate)
        {
            ulong length = (ulong)_length + (ulong)buffer.Length;
            // ORDER: the length is looked at before the session.
            if (length > Math.Min(maximumLength, (ulong)Array.MaxLength))
                return SyscallResult.Fail(Errno.ENOMEM);
            if (Disabled)
                return SyscallResult.Fail(Errno.ENODEV);
            if (length > (ulong)_received.Length)
            {
                ulong doubled = Math.Max(length, (ulong)_received.Length * 2);
                Array.Resize(ref _received, (int)Math.Min(doubled, (ulong)Array.MaxLength));
            }

            buffer.CopyTo(_received.AsSpan(_length));
            _length = (int)length;
            return SyscallResult.Ok(buffer.Length);
        }
    }

    private static byte[] MakeRoom(ulong byteLength)
    {
        byte[] room = GC.AllocateUninitializedArray<byte>(checked((int)byteLength));
        Array.Clear(room);
        return room;
    }

    protected override void Drop()
    {
        // Closing the descriptor does not unwrite: the device can still leave RESUMING with what it got.
        if (!Disabled)
            return;
        _received = [];
        _length = 0;
    }
}
