using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Kernel;
using Tidemark.Machine;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// The life of one machine in its process, and its answers on the control socket.
/// <code>
/// run:      Starting --> Running --migrate--> Migrating --Completed--> Moved (process ends)
///                           ^ ^--dirty-rate--> Measuring --done, or a migration is asked for--> Running
///                           |                    |--Cancelled, Failed--> Running
///                           |                    '--StateUnknown------> Unknown (stands still) --resolve--> Running | Moved
/// hand-over: Running --> Updating --it runs there--> Moved (process ends)  '--anything else--> Running
///                           '--snapshot save--> Saving --done, or nothing saved--> Running, with --stop: Stopped
/// receive:  Receiving --Completed--> Running     '--Failed--> process ends
/// restore:  Restoring --Completed--> Running     '--Failed--> process ends
/// stop, Ctrl-C: any --> Stopped (process ends)
/// </code>
/// </summary>
internal sealed partial class MachineProcess : IDisposable
{
    private readonly Lock _gate = new();
    private readonly string _name;
    private readonly GuestMachine _machine;
    private readonly Terminal _terminal;
    private readonly MigrationFaults _faults;
    private readonly ManualResetEventSlim _ended = new();
    private readonly ManualResetEventSlim _idle = new(initialState: true);
    private MachineState _state;
    private CancellationTokenSource? _migrationCancel;
    private CancellationTokenSource? _measureCancel;
    private MigrationProgress? _progress;
    private MigrationResult? _lastResult;
    private string? _listening;
    private ControlServer? _server;
    private volatile bool _stopAsked;

    /// <param name="kernel">The machine's.</param>
    public MachineProcess(string name, GuestMachine machine, IKernel kernel, Terminal terminal, MigrationFaults faults)
    {
        _name = name;
        _machine = machine;
        Kernel = kernel;
        _terminal = terminal;
        _faults = faults;
    }

    /// <summary>What the machine runs on; it also moves the pages.</summary>
    public IKernel Kernel { get; }

    private enum MachineState
    {
        Starting,
        Running,
        Receiving,
        Measuring,
        Migrating,
        Updating,
        Saving,
        Restoring,
        Moved,
        Unknown,
        Stopped,
    }

    /// <summary>Runs a fresh machine until it is stopped or has moved away.</summary>
    public int RunFresh(CancellationToken cancellation)
    {
        _server = ControlServer.Open(_name, Answer);
        _terminal.Detail($"control socket: {RuntimeFolder.SocketOf(_name)}");
        CodeWarmUp.Begin(_terminal.Detail);
        _machine.AcquireDisks();
        _machine.StartFresh(cancellation);
        SetState(MachineState.Running);
        _terminal.Result($"{_name} runs (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId})");
        return WaitForEnd(cancellation);
    }

    /// <summary>Waits for a machine to arrive, then runs it until it is stopped or has moved on.</summary>
    public int Receive(IAcceptor acceptor, DestinationOptions options, CancellationToken cancellation)
    {
        CodeWarmUp.Begin(_terminal.Detail);
        _listening = acceptor.Address;
        SetState(MachineState.Receiving);
        _server = ControlServer.Open(_name, Answer);
        _terminal.Result($"{_name} receives at {acceptor.Address} (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId})");
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        lock (_gate)
            _migrationCancel = cancel;
        MigrationOutcome outcome;
        using (var relay = new EventRelay<MigrationEvent>(happened => MigrationTable.Show(_terminal, MigrationJson.Event(happened))))
        {
            outcome = MigrationMetrics.Watch(
                MigrationRole.Destination, $"{_machine.KernelIdentity}", new RelayingObserver(relay, this), TimeProvider.System,
                seen => new MigrationDestination(_machine, acceptor, options, seen, TimeProvider.System).Run(cancel.Token));
        }

        lock (_gate)
        {
            _migrationCancel = null;
            _progress = null;
            _listening = null;
        }

        if (outcome.Result != MigrationResult.Completed)
        {
            // LIMIT: a source that is in doubt asks at once; nobody waits longer for one that does not.
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            limit.CancelAfter(WitnessLimit);
            outcome.Witness?.Run(TimeProvider.System, limit.Token);
            if (outcome.Result == MigrationResult.Cancelled && (_stopAsked || cancellation.IsCancellationRequested))
                return ExitCode.Done;
            _terminal.Error(outcome.Cause ?? "Nothing was received.");
            return MigrationJson.ExitCodeOf(outcome);
        }

        SetState(MachineState.Running);
        StandWitness(outcome.Witness, acceptor, cancellation);
        _terminal.Result($"{_name} runs here now (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId})");
        return WaitForEnd(cancellation);
    }

    public void Dispose()
    {
        _server?.Dispose();
        _pendingWire?.Dispose();
        _ended.Dispose();
        _idle.Dispose();
    }

    private int WaitForEnd(CancellationToken cancellation)
    {
        string? reported = null;
        while (!_ended.IsSet && !cancellation.IsCancellationRequested)
        {
            WaitHandle.WaitAny([_ended.WaitHandle, cancellation.WaitHandle], TimeSpan.FromMilliseconds(250));
            string? failure = _machine.WorkloadFailure;
            if (failure is not null && failure != reported)
                _terminal.Error(failure);
            reported = failure;
        }

        CancelMigration(TimeSpan.FromSeconds(5));
        AwaitEndOfUpdate();
        AwaitEndOfSave();
        EndMeasuring();
        MachineState state;
        lock (_gate)
        {
            // ORDER: no migration can begin from here on, so none reads memory that goes away.
            state = _state;
            if (state == MachineState.Running)
                _state = MachineState.Stopped;
        }

        if (state == MachineState.Migrating)
        {
            _terminal.Error($"{_name} ends in the middle of a migration that could not be cancelled any more: look whether it runs at the destination.");
            return ExitCode.StateUnknown;
        }

        if (state == MachineState.Saving)
            return TellUnendedSave();
        if (state == MachineState.Moved)
        {
            _terminal.Note($"{_name} has moved away.");
            return ExitCode.Done;
        }

        if (state == MachineState.Unknown)
            return ExitCode.StateUnknown;
        _terminal.Note($"{_name} stops.");
        return reported is null ? ExitCode.Done : ExitCode.Failed;
    }

    private void Answer(JsonObject request, ControlChannel channel)
    {
        switch ((string?)request["op"])
        {
            case "status":
                JsonObject status = Status();
                status["done"] = true;
                channel.Send(status);
                break;
            case "migrate":
                Migrate(request, channel);
                break;
            case "snapshot-save":
                SaveSnapshot(request, channel);
                break;
            case "forecast":
                JsonObject forecast = Forecast(request);
                forecast["done"] = true;
                channel.Send(forecast);
                break;
            case "dirty-rate":
                JsonObject rate = MeasureDirtyRate(request);
                rate["done"] = true;
                channel.Send(rate);
                break;
            case "hand-over":
                HandOver(request, channel);
                break;
            case "resolve":
                JsonObject resolved = Resolve(request);
                resolved["done"] = true;
                channel.Send(resolved);
                if (resolved["state"]!.GetValue<string>() == "moved")
                    _ended.Set();
                break;
            case "switchover":
                OpenGateOnRequest();
                channel.Send(new JsonObject { ["done"] = true });
                break;
            case "cancel":
                CancelOnRequest();
                channel.Send(new JsonObject { ["done"] = true });
                break;
            case "stop":
                _stopAsked = true;
                bool isReceiving;
                lock (_gate)
                    isReceiving = _state is MachineState.Receiving or MachineState.Restoring;
                // ORDER: a receiver's process ends as soon as it is cancelled, so it is answered before.
                if (isReceiving)
                    channel.Send(new JsonObject { ["done"] = true });
                CancelMigration(TimeSpan.FromSeconds(5));
                if (!isReceiving)
                    channel.Send(new JsonObject { ["done"] = true });
                _ended.Set();
                break;
            default:
                throw new CommandFailure($"The machine does not know the request \"{request["op"]}\".", ExitCode.Usage);
        }
    }

    private void Migrate(JsonObject request, ControlChannel channel)
    {
        MigrationAddress address = Commands.SharedOptions.Address((string?)request["to"] ?? "");
        MigrationOptions options = MigrationRequest.Read(request) with { Faults = _faults, SwitchoverGate = OpenGate(request) };
        MigrationWire wire = MigrationWire.Connect(address, request, Kernel);
        bool isUnknown = false;
        try
        {
            isUnknown = Migrate(wire, options, request, channel);
        }
        finally
        {
            if (isUnknown)
                KeepForQuestions(wire);
            else
                wire.Dispose();
        }
    }

    /// <returns>Whether nobody knows where the machine runs, so that the destination may be asked again.</returns>
    private bool Migrate(MigrationWire wire, MigrationOptions options, JsonObject request, ControlChannel channel)
    {
        if (_machine.FindSendShortage() is { } shortage)
            throw new CommandFailure($"{_name} can not be migrated: {shortage}");
        using var cancel = new CancellationTokenSource();
        EndMeasuring();
        lock (_gate)
        {
            if (_state != MachineState.Running)
                throw new CommandFailure($"{_name} can not be migrated now: it is {_state.ToString().ToLowerInvariant()}.");
            if (_machine.Verdict.Blockers is { Count: > 0 } blockers)
                throw new CommandFailure($"{_name} can not be migrated:\n" + string.Join("\n", blockers.Select(blocker => $"  {blocker}")));
            _state = MachineState.Migrating;
            _migrationCancel = cancel;
            _lastResult = null;
            _progress = new MigrationProgress();
            _idle.Reset();
        }

        foreach (Machine.Assignment.StatedCost cost in _machine.Verdict.Costs)
            TrySend(channel, MigrationJson.Event(new MigrationEvent.Decided(cost.ToString())));
        MigrationOutcome outcome;
        try
        {
            using EventRelay<MigrationEvent> relay = RelayTo<MigrationEvent>(request, channel, MigrationJson.Event);
            outcome = MigrationMetrics.Watch(
                MigrationRole.Source, $"{_machine.KernelIdentity}", new RelayingObserver(relay, this), TimeProvider.System,
                seen => new MigrationSource(_machine, wire.Connector, options, seen, TimeProvider.System).Run(cancel.Token));
        }
        catch
        {
            // The engine promises an outcome; without one nothing was handed over.
            EndMigration(MachineState.Running, MigrationResult.Failed);
            throw;
        }

        lock (_gate)
            _pending = outcome.Pending;
        EndMigration(
            outcome.Result switch
            {
                MigrationResult.Completed => MachineState.Moved,
                MigrationResult.StateUnknown => MachineState.Unknown,
                _ => MachineState.Running,
            },
            outcome.Result);
        JsonObject result = MachineJson.Complete(MigrationJson.Outcome(outcome), _machine, outcome.Report);
        result["exitCode"] = MigrationJson.ExitCodeOf(outcome);
        TrySend(channel, new JsonObject { ["done"] = true, ["result"] = result });
        if (outcome.Result == MigrationResult.Completed)
            _ended.Set();
        return outcome.Result == MigrationResult.StateUnknown;
    }

    private JsonObject MeasureDirtyRate(JsonObject request)
    {
        int milliseconds = request["milliseconds"]?.GetValue<int>() ?? 1000;
        if (milliseconds is < 100 or > 60_000)
            throw new CommandFailure("A dirty rate is measured for 0.1 to 60 seconds.", ExitCode.Usage);
        lock (_gate)
        {
            if (_state == MachineState.Migrating)
            {
                // One tracker, and it is in use: what it has found is the answer.
                return _progress?.FindDirtyRate() is { } passed
                    ? MachineJson.Describe(passed, _machine, "migration")
                    : throw new CommandFailure(
                        $"{_name} is being migrated and has not finished two passes yet; ask again.",
                        ExitCode.Inconclusive);
            }
        }

        return WhileMeasuring(cancel => MachineJson.Describe(
            DirtyRate.Measure(_machine, TimeSpan.FromMilliseconds(milliseconds), cancel), _machine, "measurement"));
    }

    /// <summary>A migration does not wait for a figure that somebody asked for.</summary>
    private void EndMeasuring()
    {
        lock (_gate)
        {
            if (_measureCancel is null)
                return;
            _measureCancel.Cancel();
        }

        _idle.Wait(TimeSpan.FromSeconds(5));
    }

    private void EndMigration(MachineState state, MigrationResult result)
    {
        lock (_gate)
        {
            _state = state;
            _migrationCancel = null;
            _progress = null;
            _lastResult = result;
            _idle.Set();
        }
    }

    private void CancelOnRequest()
    {
        bool receiving;
        lock (_gate)
        {
            receiving = _state == MachineState.Receiving;
            if (_migrationCancel is null)
                throw new CommandFailure($"{_name} is not being migrated or saved.");
        }

        CancelMigration(TimeSpan.FromSeconds(10));
        lock (_gate)
        {
            if (!receiving && _lastResult is MigrationResult.Completed or MigrationResult.StateUnknown)
                throw new CommandFailure($"Too late to cancel: {_name} was handed over already.");
            if (_state == MachineState.Saving)
                throw new CommandFailure($"The save of {_name} has not ended yet; `tidemark status {_name}` shows where it is.", ExitCode.Inconclusive);
            if (_state == MachineState.Migrating)
                throw new CommandFailure($"The migration of {_name} has not ended yet; `tidemark status {_name}` shows where it is.", ExitCode.Inconclusive);
        }
    }

    /// <summary>Asks the migration under way to end, and waits for it at most so long.</summary>
    private void CancelMigration(TimeSpan wait)
    {
        lock (_gate)
        {
            if (_migrationCancel is null)
                return;
            _migrationCancel.Cancel();
        }

        _idle.Wait(wait);
    }

    private JsonObject Status()
    {
        JsonObject status = MachineJson.Status(_machine);
        lock (_gate)
        {
            status["name"] = _name;
            status["processId"] = Environment.ProcessId;
            status["state"] = _state.ToString().ToLowerInvariant();
            status["listening"] = _listening;
            status["migration"] = _progress?.ToJson();
            status["snapshot"] = _snapshotProgress?.ToJson();
        }

        return status;
    }

    private void SetState(MachineState state)
    {
        lock (_gate)
            _state = state;
    }

    private void Observe(MigrationEvent migrationEvent)
    {
        lock (_gate)
            _progress?.Observe(migrationEvent);
    }

    /// <summary>
    /// To the command that asked, as long as it is there and if it wants to hear, and to this process's own terminal as details.
    /// </summary>
    private EventRelay<T> RelayTo<T>(JsonObject request, ControlChannel channel, Func<T, JsonObject> toJson)
    {
        bool gone = request["events"]?.GetValue<bool>() == false;
        return new EventRelay<T>(happened =>
        {
            if (gone && !_terminal.ShowsDetails)
                return;
            JsonObject json = toJson(happened);
            _terminal.Detail(json.ToJsonString());
            if (!gone)
                gone = !TrySend(channel, json);
        });
    }

    private static bool TrySend(ControlChannel channel, JsonObject message)
    {
        try
        {
            channel.Send(message);
            return true;
        }
        catch (Exception failure) when (failure is System.Net.Sockets.SocketException or ObjectDisposedException)
        {
            // The user's command went away; the migration does not depend on it.
            return false;
        }
    }

    /// <summary>What it is told is known at once, and shown a moment later.</summary>
    private sealed class RelayingObserver(EventRelay<MigrationEvent> relay, MachineProcess process) : IMigrationObserver
    {
        public void OnEvent(MigrationEvent migrationEvent)
        {
            process.Observe(migrationEvent);
            relay.Post(migrationEvent);
        }
    }
}
