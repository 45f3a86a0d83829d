using System.Text.Json.Nodes;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <remarks>
/// What both sides do about a Commit whose acknowledgement was lost: the destination answers when it is asked, the source
/// asks, and an operator decides only when nobody answers.
/// </remarks>
internal sealed partial class MachineProcess
{
    private static readonly TimeSpan WitnessLimit = TimeSpan.FromSeconds(10);

    /// <summary>LIMIT: an operator waits for the answer.</summary>
    private static readonly TimeSpan ResolveLimit = TimeSpan.FromSeconds(3);

    private PendingHandover? _pending;

    /// <summary>What the destination of an unknown outcome is asked over.</summary>
    private MigrationWire? _pendingWire;

    private ManualResetEventSlim? _switchoverGate;

    /// <summary>For a migration whose moment of switchover an operator wants to choose.</summary>
    private ManualResetEventSlim? OpenGate(JsonObject request)
    {
        ManualResetEventSlim? gate = request["pauseBeforeSwitchover"]?.GetValue<bool>() == true ? new ManualResetEventSlim() : null;
        lock (_gate)
            _switchoverGate = gate;
        return gate;
    }

    /// <summary>Keys and certificates are needed as long as the destination may be asked.</summary>
    private void KeepForQuestions(MigrationWire wire)
    {
        // One of an outcome that was resolved since is needed no more.
        Interlocked.Exchange(ref _pendingWire, wire)?.Dispose();
    }

    private void OpenGateOnRequest()
    {
        lock (_gate)
        {
            if (_state != MachineState.Migrating || _switchoverGate is null)
                throw new CommandFailure($"{_name} is not being migrated with --pause-before-switchover.");
            _switchoverGate.Set();
        }
    }

    /// <summary>
    /// A source that was not told that its machine runs here may ask until it was, or this process ends. When nobody can
    /// ask, the address is free again.
    /// </summary>
    private static void StandWitness(HandoverWitness? witness, IAcceptor acceptor, CancellationToken cancellation)
    {
        if (witness is null)
        {
            acceptor.Dispose();
            return;
        }

        new Thread(() =>
        {
            witness.Run(TimeProvider.System, cancellation);
            acceptor.Dispose();
        }) { IsBackground = true, Name = "tidemark witness" }.Start();
    }

    /// <summary>
    /// Ends an unknown state. The destination's word decides; only where it says nothing an operator may, who has looked.
    /// </summary>
    private JsonObject Resolve(JsonObject request)
    {
        var decision = (string?)request["decision"];
        PendingHandover pending;
        lock (_gate)
        {
            if (_state != MachineState.Unknown || _pending is null)
                throw new CommandFailure($"{_name} is {_state.ToString().ToLowerInvariant()}: there is nothing to resolve.");
            pending = _pending;
            // One at a time; given back if nothing comes of it.
            _pending = null;
        }

        MachineFate fate = MachineFate.NotTold;
        try
        {
            fate = pending.Ask(ResolveLimit);
            bool runsHere = (fate, decision) switch
            {
                (MachineFate.RunsThere, "run-here") => throw new CommandFailure(
                    $"{_name} was not taken back: the destination says that it runs there, and two must never run. Let it go with `tidemark resolve {_name}`."),
                (MachineFate.NeverThere, "moved") => throw new CommandFailure(
                    $"{_name} was not let go: the destination says that it never ran there, so nobody would run it. Take it back with `tidemark resolve {_name}`."),
                (MachineFate.RunsThere, _) => false,
                (MachineFate.NeverThere, _) => true,
                (_, "run-here") => true,
                (_, "moved") => false,
                (MachineFate.BrokenThere, _) => throw new CommandFailure(
                    $"The destination says that {_name} was handed over and could not be started, and that its devices may have run. Stop it there, then say --run-here.",
                    ExitCode.Inconclusive),
                _ => throw new CommandFailure(
                    $"Nobody at the destination answers. Look there whether {_name} runs. If it does, say --moved; if it does not and can not any more, say --run-here.",
                    ExitCode.Inconclusive),
            };
            return runsHere ? TakeBack(pending, fate) : LetGo(pending, fate);
        }
        catch (CommandFailure)
        {
            lock (_gate)
                _pending = pending;
            throw;
        }
    }

    private JsonObject TakeBack(PendingHandover pending, MachineFate fate)
    {
        // The disks were given up with Commit.
        _machine.AcquireDisks();
        IReadOnlyList<string> problems = pending.TakeBack();
        SetState(MachineState.Running);
        if (problems.Count > 0)
            throw new CommandFailure($"{_name} was taken back, and not all of it runs: {string.Join(" ", problems)}");
        return new JsonObject { ["state"] = "running", ["destination"] = Word(fate) };
    }

    private JsonObject LetGo(PendingHandover pending, MachineFate fate)
    {
        pending.LetGo();
        SetState(MachineState.Moved);
        return new JsonObject { ["state"] = "moved", ["destination"] = Word(fate) };
    }

    private static string Word(MachineFate fate) => fate switch
    {
        MachineFate.RunsThere => "runs",
        MachineFate.NeverThere => "neverRan",
        MachineFate.BrokenThere => "broken",
        _ => "notTold",
    };
}
