using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Kernel.Soft.Vfio;

// The migration states of a device (VFIO_DEVICE_STATE_*) and the arcs a driver implements. A request for a distant
// state walks several arcs; the table NextHop says which.
//
//      PreCopy <===========> PreCopyP2P -------------.            ===  both ways
//       ^  |     Quiesce/Run    ^  |                 |            saving session opens at * and ends at x:
//      *|  |x                  *|  |x                | Freeze       Running -> PreCopy, RunningP2P -> PreCopyP2P,
//       |  v                    |  v                 v              Stop -> StopCopy
//      Running <===========> RunningP2P          StopCopy         it goes on, same descriptor, through
//                Quiesce/Run    ^  |               ^  |             PreCopy <-> PreCopyP2P -> StopCopy
//                        Unfreeze  Freeze         *|  |x          resuming session: opens at +, ends at Stop, where the
//                               |  v               |  v             stream is loaded. A refused stream: stays Resuming.
//                             Stop <---------------------->
//                               |+ ^ LoadState
//                               v  |                              Reset: to Running from anywhere; sessions end.
//                             Resuming
//
// Without P2P its two states are left out: Running -> Stop quiesces and freezes, PreCopy -> StopCopy too. Without
// PRE_COPY the upper two are. StopCopy -> PreCopy has no path.

/// <summary>
/// A device's migration state, walked by user requests. All members are called under the device's gate.
/// </summary>
/// <param name="flags">The abilities; contains StopCopy.</param>
internal sealed class MigrationStateMachine(SoftDeviceModel model, VfioMigrationFlags flags, Lock gate)
    : IVfioMigration
{
    private SavingDataFile? _saving;
    private ResumingDataFile? _resuming;
    private bool _initialTaken;

    public VfioDeviceMigState State { get; private set; } = Running;

    public VfioMigrationFlags Flags => flags;

    public ulong DataSize => model.FinalStateSize;

    /// <summary>Whether a saving session is in its PRE_COPY phase.</summary>
    public bool IsPreCopying => State is PreCopy or PreCopyP2P;

    /// <summary>
    /// MIG_PRECOPY_INFOv2 was enabled: the flags of precopy info are an output. Until the device's last close.
    /// </summary>
    public bool PrecopyInfoHasFlags { get; set; }

    /// <summary>
    /// Walks to <paramref name="target"/>. On failure the device is where it got to, see <see cref="State"/>.
    /// </summary>
    /// <param name="opened">The data stream that the last arc opened, or null: also when an open one goes on.</param>
    public Errno Request(VfioDeviceMigState target, out SoftFile? opened)
    {
        Errno errno = Walk(target, out MigrationDataFile? stream);
        opened = stream;
        return errno;
    }

    /// <summary>The device was reset: it runs, and no session is left.</summary>
    public void Reset()
    {
        EndSessions();
        State = Running;
    }

    private Errno Walk(VfioDeviceMigState target, out MigrationDataFile? opened)
    {
        opened = null;
        if (!MigrationArcs.IsReachable(target, flags))
            return Errno.EINVAL;
        while (State != target)
        {
            VfioDeviceMigState next = MigrationArcs.Next(State, target, flags);
            if (next == Error)
                return Errno.EINVAL;
            // A stream opened on the way is not the one asked for: nobody will ever have its descriptor.
            opened?.Disable();
            Errno errno = Step(next, out opened);
            if (errno != Errno.Success)
                return errno;
            State = next;
        }

        return Errno.Success;
    }

    private Errno Step(VfioDeviceMigState next, out MigrationDataFile? opened)
    {
        opened = null;
        switch (State, next)
        {
            case (Running, RunningP2P):
            case (PreCopy, PreCopyP2P):
                model.Quiesce();
                return Errno.Success;
            case (RunningP2P, Running):
            case (PreCopyP2P, PreCopy):
                model.Run();
                return Errno.Success;
            case (RunningP2P, Stop):
                model.Freeze();
                return Errno.Success;
            case (Stop, RunningP2P):
                model.Unfreeze();
                return Errno.Success;
            case (Running, Stop):
                model.Quiesce();
                model.Freeze();
                return Errno.Success;
            case (Stop, Running):
                model.Unfreeze();
                model.Run();
                return Errno.Success;
            case (Running, PreCopy):
            case (RunningP2P, PreCopyP2P):
                opened = _saving = BeginPreCopy();
                return Errno.Success;
            case (PreCopy, Running):
            case (PreCopyP2P, RunningP2P):
            case (StopCopy, Stop):
                EndSessions();
                return Errno.Success;
            case (PreCopy, StopCopy):
                model.Quiesce();
                Errno finished = FreezeAndFinish();
                if (finished != Errno.Success)
                    model.Run();
                return finished;
            case (PreCopyP2P, StopCopy):
                return FreezeAndFinish();
            case (Stop, StopCopy):
                opened = _saving = BeginStopCopy();
                return opened is null ? Errno.EIO : Errno.Success;
            case (Stop, Resuming):
                opened = _resuming = new ResumingDataFile(gate, model.FinalStateSize, model.MaximumStateSize);
                return Errno.Success;
            case (Resuming, Stop):
                return Load();
            default:
                throw new InvariantException($"There is no migration arc from {State} to {next}.");
        }
    }

    private SavingDataFile BeginPreCopy()
    {
        _initialTaken = true;
        return new SavingDataFile(this, model, gate, model.SaveInitial());
    }

    /// <summary>Null: the model has no final state to give, which is how it tells that saving failed.</summary>
    private SavingDataFile? BeginStopCopy()
    {
        // An earlier session that was given up may have taken the initial part with it: this stream needs its own.
        byte[] initial = _initialTaken ? model.SaveInitial() : [];
        byte[] final = model.SaveFinal();
        if (final.Length == 0)
            return null;
        var file = new SavingDataFile(this, model, gate, initial);
        file.Finish(final);
        return file;
    }

    /// <summary>On failure the model is as before the call, and the session goes on.</summary>
    private Errno FreezeAndFinish()
    {
        Invariant.Require(_saving is not null, "A device is in PRE_COPY without a saving session.");
        model.Freeze();
        byte[] final = model.SaveFinal();
        if (final.Length == 0)
        {
            model.Unfreeze();
            return Errno.EIO;
        }

        _saving.Finish(final);
        return Errno.Success;
    }

    private Errno Load()
    {
        Invariant.Require(_resuming is not null, "A device is in RESUMING without a resuming session.");
        Errno errno = model.LoadState(_resuming.Received);
        if (errno == Errno.Success)
            EndSessions();
        return errno;
    }

    private void EndSessions()
    {
        _saving?.Disable();
        _saving = null;
        _resuming?.Disable();
        _resuming = null;
    }
}
