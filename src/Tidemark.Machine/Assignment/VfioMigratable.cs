using Tidemark.Abi;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>An assigned device as a part of a machine that moves: the engine's steps as migration states of
/// VFIO.</summary>
/// <remarks>
/// <code>
/// source          with PRE_COPY                        without
///   BeginSave     RUNNING      -> PRE_COPY             stays RUNNING
///   EnterP2P      PRE_COPY     -> PRE_COPY_P2P         RUNNING -> RUNNING_P2P        (both only with P2P)
///   Stop          ...          -> STOP_COPY            ...     -> STOP
///   ReadState     the same stream goes on              STOP    -> STOP_COPY, a new stream
///   EndSave       STOP_COPY    -> STOP                 STOP_COPY -> STOP
///   Recover       any -> RUNNING, or a reset
/// destination
///   BeginLoad     nothing: a device whose state is empty is never put into RESUMING
///   WriteState    first bytes: RUNNING -> RESUMING
///   EndLoad       RESUMING -> STOP, which checks the state
///   PrepareStart  STOP -> RUNNING_P2P                  (all devices, before any runs; only with P2P)
///   Start         -> RUNNING
/// </code>
/// A device without PRE_COPY goes to STOP_COPY only when its state is wanted: saving can be slow, and the other devices
/// should stand still before.
/// </remarks>
public sealed class VfioMigratable : IMigratable, IDisposable
{
    private readonly VfioMigration _migration;
    private bool _stopped;
    private bool _ended;
    private bool _loadBegan;

    public VfioMigratable(string name, VfioMigration migration)
    {
        ArgumentNullException.ThrowIfNull(migration);
        Name = name;
        _migration = migration;
    }

    public string Name { get; }

    /// <inheritdoc/>
    public void BeginSave()
    {
        _stopped = false;
        _ended = false;
        if (_migration.HasPreCopy)
            _migration.SetState(VfioDeviceMigState.PreCopy, recovery: VfioDeviceMigState.Running);
    }

    /// <inheritdoc/>
    public StateEstimate Estimate()
    {
        ulong? stopBytes = _migration.GetDataSize();
        PrecopyEstimate? precopy = _stopped ? null : _migration.GetPrecopyEstimate();
        return new StateEstimate(precopy?.InitialBytes ?? 0, precopy?.DirtyBytes ?? 0, stopBytes);
    }

    /// <inheritdoc/>
    public int ReadState(Span<byte> buffer)
    {
        if (_ended)
            return 0;
        if (!_migration.HasStream)
        {
            if (!_stopped)
                return 0;
            _migration.SetState(VfioDeviceMigState.StopCopy, recovery: VfioDeviceMigState.Stop);
        }

        int count = _migration.Read(buffer);
        _ended = _stopped && count == 0;
        return count;
    }

    /// <inheritdoc/>
    public void EnterP2P()
    {
        if (!_migration.HasP2P)
            return;
        VfioDeviceMigState target =
            _migration.HasStream ? VfioDeviceMigState.PreCopyP2P : VfioDeviceMigState.RunningP2P;
        _migration.SetState(target, recovery: VfioDeviceMigState.Running);
    }

    /// <inheritdoc/>
    public void Stop()
    {
        // From PRE_COPY the way to STOP would end the stream and with it what was sent already.
        VfioDeviceMigState target = _migration.HasStream ? VfioDeviceMigState.StopCopy : VfioDeviceMigState.Stop;
        _migration.SetState(target, recovery: VfioDeviceMigState.Running);
        _stopped = true;
    }

    /// <inheritdoc/>
    public void EndSave()
    {
        // No recovery: the part stays stopped, and a reset would make it a device that runs again.
        _migration.TrySetState(VfioDeviceMigState.Stop).ThrowIfFailed($"Ending the saving of {Name}");
    }

    /// <inheritdoc/>
    public void Recover()
    {
        _stopped = false;
        _ended = false;
        // A device that runs already answers success; one in ERROR refuses, and is reset.
        _migration.SetState(VfioDeviceMigState.Running, recovery: null);
    }

    /// <inheritdoc/>
    public void BeginLoad()
    {
        _stopped = false;
        _ended = false;
        if (!_loadBegan)
            return;
        // Half a state, or all of one that is void: only a reset leaves nothing of it.
        _migration.Reset();
        _loadBegan = false;
    }

    /// <inheritdoc/>
    public void WriteState(ReadOnlySpan<byte> bytes)
    {
        if (bytes.IsEmpty)
            return;
        _loadBegan = true;
        if (!_migration.HasStream)
            _migration.SetState(VfioDeviceMigState.Resuming, recovery: VfioDeviceMigState.Stop);
        _migration.Write(bytes);
    }

    /// <inheritdoc/>
    public void EndLoad()
    {
        _loadBegan = true;
        // A device that refuses what it was given holds half of it: only a reset leaves nothing of that.
        _migration.SetState(VfioDeviceMigState.Stop, recovery: null);
        _stopped = true;
    }

    /// <inheritdoc/>
    public void PrepareStart()
    {
        if (_migration.HasP2P)
            _migration.SetState(VfioDeviceMigState.RunningP2P, recovery: null);
    }

    /// <inheritdoc/>
    public void Start()
    {
        _migration.SetState(VfioDeviceMigState.Running, recovery: null);
        _stopped = false;
    }

    /// <summary>Closes the state stream; the device's state is left as it is.</summary>
    public void Dispose() => _migration.Dispose();
}
