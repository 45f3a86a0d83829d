using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Machine.Snapshot;
using Tidemark.Migration;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Cli.Hosting;

/// <summary>Saving a machine to a file, and running one from a file. States are drawn in MachineProcess.cs.</summary>
internal sealed partial class MachineProcess
{
    /// <summary>LIMIT: a request to a disk that hangs can not be called back; how long the end of the process waits for it.</summary>
    private static readonly TimeSpan HungDiskLimit = TimeSpan.FromSeconds(30);

    private SnapshotProgress? _snapshotProgress;

    /// <summary>Fills the machine from a file and runs it until it is stopped or has moved away.</summary>
    public int Restore(string path, DirectIO direct, bool json, CancellationToken cancellation)
    {
        CodeWarmUp.Begin(_terminal.Detail);
        SetState(MachineState.Restoring);
        lock (_gate)
            _snapshotProgress = new SnapshotProgress();
        _server = ControlServer.Open(_name, Answer);
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        lock (_gate)
            _migrationCancel = cancel;
        SnapshotOutcome outcome;
        using (SnapshotFile file = _machine.OpenSnapshotFile(path, direct))
        using (var relay = new EventRelay<SnapshotEvent>(happened => SnapshotTable.Show(_terminal, SnapshotJson.Event(happened))))
        {
            outcome = new SnapshotRestore(
                new RestoredMachine(_machine), file,
                new SnapshotRestoreOptions { FindTouchedPages = () => _machine.BeginFilling().Touched },
                new SnapshotObserver(this, relay),
                TimeProvider.System).Run(cancel.Token);
        }

        _terminal.EndProgress();
        lock (_gate)
        {
            _migrationCancel = null;
            _snapshotProgress = null;
        }

        bool restored = outcome.Result == SnapshotResult.Completed;
        if (restored)
            SetState(MachineState.Running);
        if (json)
            _terminal.Result(SnapshotJson.Outcome(outcome, _name, path, _machine).ToJsonString());
        if (!restored)
        {
            if (outcome.Result == SnapshotResult.Cancelled && (_stopAsked || cancellation.IsCancellationRequested))
                return ExitCode.Done;
            _terminal.Error(outcome.Cause ?? "Nothing was restored.");
            return ExitCode.Failed;
        }

        if (!json)
        {
            SnapshotTable.ShowResult(_terminal, SnapshotJson.Outcome(outcome, _name, path, _machine));
            _terminal.Result($"{_name} runs here now (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId})");
        }

        return WaitForEnd(cancellation);
    }

    private void SaveSnapshot(JsonObject request, ControlChannel channel)
    {
        string path = (string?)request["file"] ?? throw new CommandFailure("No file is named.", ExitCode.Usage);
        DirectIO direct = Commands.SnapshotCommand.ParseDirect((string?)request["direct"] ?? "auto");
        var options = new SnapshotSaveOptions
        {
            StopsMachine = request["stop"]?.GetValue<bool>() ?? false,
            FindTouchedPages = _machine.FindTouchedPages,
        };
        using var cancel = new CancellationTokenSource();
        EndMeasuring();
        lock (_gate)
        {
            if (_state != MachineState.Running)
                throw new CommandFailure($"{_name} can not be saved now: it is {_state.ToString().ToLowerInvariant()}.");
            if (_machine.Verdict.Blockers is { Count: > 0 } blockers)
                throw new CommandFailure($"{_name} can not be saved:\n" + string.Join("\n", blockers.Select(blocker => $"  {blocker}")));
            _state = MachineState.Saving;
            _migrationCancel = cancel;
            _lastResult = null;
            _snapshotProgress = new SnapshotProgress();
            _idle.Reset();
        }

        var after = MachineState.Running;
        JsonObject result;
        try
        {
            using EventRelay<SnapshotEvent> relay = RelayTo<SnapshotEvent>(request, channel, SnapshotJson.Event);
            var observer = new SnapshotObserver(this, relay);
            SnapshotOutcome outcome = new SnapshotSave(
                _machine, () => _machine.CreateSnapshotFile(path, direct), options, observer, TimeProvider.System).Run(cancel.Token);
            if (options.StopsMachine && outcome.FileIsComplete)
                after = MachineState.Stopped;
            result = SnapshotJson.Outcome(outcome, _name, path, _machine);
        }
        finally
        {
            lock (_gate)
            {
                _state = after;
                _migrationCancel = null;
                _snapshotProgress = null;
                _idle.Set();
            }
        }

        TrySend(channel, new JsonObject { ["done"] = true, ["result"] = result });
        if (after == MachineState.Stopped)
            _ended.Set();
    }

    /// <summary>Memory must not go away while it is read.</summary>
    private void AwaitEndOfSave()
    {
        bool isSaving;
        lock (_gate)
            isSaving = _state == MachineState.Saving;
        if (isSaving)
            _idle.Wait(HungDiskLimit);
    }

    private int TellUnendedSave()
    {
        _terminal.Error($"{_name} ends in the middle of a save that could not be cancelled, because the disk does not answer. The next save to the same file removes what is left of it.");
        return ExitCode.Failed;
    }

    private sealed class SnapshotObserver(MachineProcess process, EventRelay<SnapshotEvent> relay) : ISnapshotObserver
    {
        public void OnEvent(SnapshotEvent snapshotEvent)
        {
            lock (process._gate)
                process._snapshotProgress?.Observe(snapshotEvent);
            relay.Post(snapshotEvent);
        }
    }
}
