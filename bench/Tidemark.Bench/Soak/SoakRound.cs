using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace Tidemark.Bench.Soak;

/// <summary>How a round ended.</summary>
/// <param name="Runner">The process that runs the machine now, or null when that was killed.</param>
/// <param name="Outcome">What <c>migrate</c> said.</param>
internal sealed record SoakRoundResult(SoakEnd End, SoakProcess? Runner, string Outcome)
{
    /// <summary>An operator's command ended it.</summary>
    public bool Resolved { get; init; }

    public int Cuts { get; init; }

    /// <summary>From the request to both ends at rest.</summary>
    public TimeSpan? CancelTook { get; init; }
}

/// <summary>
/// One migration between two processes, what is done to it, and the judgement.
/// <code>
/// source runs; receiver started -> migrate -> the plan's deed at its moment -> migrate ends
///   completed      source ends with 0      destination runs
///   cancelled,     source runs             destination ends with 1
///   failed
///   stateUnknown   stands still -> resolve -> as completed, or as failed
///   (source killed)                        destination runs, or ends with 1
/// </code>
/// </summary>
internal sealed class SoakRound(SoakScene scene, SoakPlan plan, SoakProcess source) : IDisposable
{
    private const int StateUnknown = 4;
    private const int Inconclusive = 2;

    private static readonly string[] s_phases = ["connect", "negotiate", "track", "precopy", "switchover", "verify", "commit", "done"];

    /// <summary>LIMIT: three cuts, each waited out, on a busy host.</summary>
    private static readonly TimeSpan s_migrationLimit = TimeSpan.FromSeconds(150);

    /// <summary>LIMIT: a second is promised, this is certainly more than a busy host.</summary>
    private static readonly TimeSpan s_cancelLimit = TimeSpan.FromSeconds(15);

    private SoakProcess _destination = null!;
    private SoakProcess _migrate = null!;
    private CutProxy? _proxy;
    private bool _killedSource;
    private bool _killedDestination;
    private bool _resolved;
    private long _cancelAsked;

    /// <summary>Until the source's end was at rest.</summary>
    private TimeSpan _cancelTook;

    /// <summary>Nobody ever came to the receiver: it goes on waiting, which is its rest.</summary>
    private bool _nobodyCame;

    internal SoakRoundResult Run()
    {
        source.Phase = null;
        string address = StartReceiver();
        try
        {
            if (plan.NeedsProxy)
            {
                _proxy = new CutProxy(
                    plan.Unix ? Path.Combine(scene.Folder, $"p{plan.Round}") : null, address, plan.CutAfterBytes, plan.Trap, plan.HardCut)
                {
                    RefusesAfterTrap = plan.Kind == SoakKind.Resolve,
                };
                address = _proxy.Address;
            }

            using var watch = new RunnerWatch(scene, source, _destination);
            StartMigration(address);
            Act();
            if (!_migrate.WaitForEnd(s_migrationLimit))
                throw new SoakViolationException($"migrate has not ended after {s_migrationLimit.TotalSeconds:0} s.");
            _cancelTook = Stopwatch.GetElapsedTime(_cancelAsked);
            SoakRoundResult result = Judge();
            if (watch.Violation is { } violation)
                throw new SoakViolationException(violation);
            if (plan.Expected is { } expected && expected != result.End)
                throw new SoakViolationException($"The machine is at: {result.End}; it had to be at: {expected}.");
            return result with { Cuts = _proxy?.Cuts ?? 0, Resolved = _resolved };
        }
        finally
        {
            Dispose();
        }
    }

    /// <summary>Ends the proxy; processes are the scene's.</summary>
    public void Dispose()
    {
        _proxy?.Dispose();
        _proxy = null;
        File.Delete(Path.Combine(scene.Folder, $"p{plan.Round}"));
    }

    /// <summary>What the round leaves behind goes, but for the runner.</summary>
    internal void Tidy(SoakProcess? runner)
    {
        foreach (SoakProcess process in new[] { source, _destination, _migrate })
        {
            if (process != runner)
                scene.Remove(process);
        }
    }

    private string StartReceiver()
    {
        string name = $"d{plan.Round}";
        string listen = plan.Unix ? $"unix:{scene.Folder}/{name}" : "tcp:127.0.0.1:0";
        string[] tls = plan.Tls ? ["--tls", "pki/there", "--tls-peer", "here"] : [];
        _destination = scene.Start(
            $"{plan.Round}-receive", name,
            [
                "receive", scene.MachineFile, "--name", name, "--listen", listen, "--tied", "--verbose",
                "--wait-for-source", $"{plan.WaitForSourceSeconds}", .. tls,
            ]);
        SoakScene.Await("it receives", _destination, () => _destination.Find(" receives at ") is not null);
        return _destination.Find(" receives at ")!.Split(" receives at ")[1].Split(' ')[0];
    }

    private void StartMigration(string address)
    {
        var arguments = new List<string>
        {
            "migrate", source.Name, address, "--json", "--channels", $"{plan.Channels}", "--retry", $"{plan.RetrySeconds}",
            "--downtime-limit", "1000", "--when-stuck", "switch-over", "--timeout", "20", "--compress", plan.Compress,
        };
        if (plan.Verify)
            arguments.Add("--verify");
        if (plan.Pause)
            arguments.Add("--pause-before-switchover");
        if (plan.BandwidthLimit > 0)
            arguments.AddRange(["--bandwidth-limit", $"{plan.BandwidthLimit}MiB"]);
        if (plan.Tls)
            arguments.AddRange(["--tls", "pki/here", "--tls-peer", "there"]);
        _migrate = scene.Start($"{plan.Round}-migrate", $"migrate{plan.Round}", arguments);
    }

    private void Act()
    {
        if (plan.Trap is { Action: TrapAction.Hold })
        {
            SoakScene.Await($"frame {plan.Trap.Type} came by", _migrate, () => _proxy!.Sprung.IsSet);
            Do();
            _proxy!.Cut();
            _proxy.Release();
            return;
        }

        if (plan.Moment is not { } moment || !AwaitMoment(moment))
            return;
        Do();
    }

    private bool AwaitMoment(SoakMoment moment)
    {
        int phase = Array.IndexOf(s_phases, moment.Phase);
        // It does not leave precopy before it is told.
        if (plan.Pause)
            phase = Math.Min(phase, Array.IndexOf(s_phases, "precopy"));
        while (Array.IndexOf(s_phases, source.Phase ?? "") < phase)
        {
            if (_migrate.WaitForEnd(TimeSpan.FromMilliseconds(1)))
                return false;
        }

        // A migration without a pause may end meanwhile.
        return !_migrate.WaitForEnd(TimeSpan.FromMilliseconds(moment.DelayMilliseconds));
    }

    private void Do()
    {
        switch (plan.Kind)
        {
            case SoakKind.Move when plan.Pause:
                ControlSocket.Ask(scene.Folder, source.Name, "switchover");
                break;
            case SoakKind.Cancel:
                _cancelAsked = Stopwatch.GetTimestamp();
                if (plan.CancelWay == "signal")
                    _migrate.Terminate();
                else
                    ControlSocket.Ask(scene.Folder, (plan.CancelWay == "source" ? source : _destination).Name, "cancel", 30_000);
                break;
            case SoakKind.KillSource:
                source.Kill();
                // It may have ended in order a moment before: then the machine has moved.
                _killedSource = source.ExitCode != 0;
                break;
            case SoakKind.KillDestination:
                _killedDestination = true;
                _destination.Kill();
                break;
            default:
                break;
        }
    }

    private SoakRoundResult Judge()
    {
        JsonObject? result = _migrate.FindResult();
        string outcome = (string?)result?["outcome"] ?? "none";
        if (result?["verified"]?["lostPages"] is { } lost && lost.GetValue<ulong>() > 0)
            throw new SoakViolationException($"{lost} lost pages: {result["cause"]}") { LostPages = lost.GetValue<ulong>() };
        if (_killedSource)
            return JudgeKilledSource(outcome);
        SoakRoundResult judged = outcome switch
        {
            "completed" => Moved(outcome),
            "stateUnknown" => Resolve(outcome),
            "failed" or "cancelled" => Stayed(outcome),
            // Whoever sends a signal to the command does not get a result in every case.
            "none" when plan is { Kind: SoakKind.Cancel, CancelWay: "signal" } => Stayed(outcome),
            _ => throw new SoakViolationException($"migrate ended with code {_migrate.ExitCode} and without a result."),
        };
        RequireAllowed(judged, result);
        if (plan.Kind == SoakKind.Cancel && outcome == "cancelled")
        {
            judged = judged with { CancelTook = _nobodyCame ? _cancelTook : Stopwatch.GetElapsedTime(_cancelAsked) };
            if (judged.CancelTook > s_cancelLimit)
                throw new SoakViolationException($"A cancel took {judged.CancelTook.Value.TotalSeconds:0.0} s.");
        }

        return judged;
    }

    private void RequireAllowed(SoakRoundResult judged, JsonObject? result)
    {
        string cause = (string?)result?["cause"] ?? "";
        bool before = (string?)result?["phase"] is "connect" or "negotiate" && !cause.Contains("did not come back", StringComparison.Ordinal);
        bool allowed = (plan.Kind, judged.Outcome) switch
        {
            (SoakKind.Move, "completed") => true,
            (SoakKind.Cancel, "cancelled" or "none") => true,
            (SoakKind.Cancel, "completed") => !plan.Pause,
            // Before there is a migration, nothing can be taken up again. A Commit that was lost ends it, too.
            // A destination that has not met its source yet has nobody to tell.
            // One that gave up while Commit was on its way says so when it is asked.
            (SoakKind.Cancel, "failed") => plan.CancelWay == "destination"
                && (before || cause.Contains("never ran the machine", StringComparison.Ordinal)),
            (SoakKind.CutAndResume, "failed") => before || cause.Contains("never ran the machine", StringComparison.Ordinal),
            (SoakKind.CutAndResume, "completed" or "stateUnknown") => true,
            (SoakKind.CutForGood, "failed" or "completed" or "stateUnknown") => true,
            (SoakKind.KillDestination, "failed" or "completed" or "stateUnknown") => true,
            // It had moved before anybody was killed.
            (SoakKind.KillSource, "completed") => true,
            (SoakKind.Resolve, "stateUnknown") => true,
            _ => false,
        };
        if (!allowed)
            throw new SoakViolationException($"The outcome of {plan.Kind} was {judged.Outcome}: {cause}");
    }

    private SoakRoundResult JudgeKilledSource(string outcome)
    {
        long began = Stopwatch.GetTimestamp();
        SoakScene.Await(
            "it ends or runs", _destination,
            () => _destination.HasEnded || (string?)scene.Status(_destination)?["state"] == "running" || HasNobody(began));
        if (HasNobody(began))
            AwaitEndOfReceiver("the source was killed");
        if (!_destination.HasEnded)
        {
            RequireRunning(_destination);
            return new SoakRoundResult(SoakEnd.Destination, _destination, outcome);
        }

        if (_destination.ExitCode != 0)
            SoakScene.AwaitEnd(_destination, "the source was killed", 1);
        return new SoakRoundResult(SoakEnd.Nowhere, null, outcome);
    }

    private SoakRoundResult Moved(string outcome)
    {
        SoakScene.AwaitEnd(source, "its machine has moved", 0);
        if (_killedDestination)
            return new SoakRoundResult(SoakEnd.Nowhere, null, outcome);
        RequireRunning(_destination);
        if (!plan.NeedsProxy && _destination.HasUntoldSource)
            throw new SoakViolationException("The destination says that the source could not be told, and nothing was cut.");
        return new SoakRoundResult(SoakEnd.Destination, _destination, outcome);
    }

    private SoakRoundResult Stayed(string outcome)
    {
        RequireRunning(source);
        if (!_killedDestination)
            AwaitEndOfReceiver($"the migration was {outcome}");
        return new SoakRoundResult(SoakEnd.Source, source, outcome);
    }

    /// <summary>A connection that broke before it said what it is ends no receiver: that one waits for its source.</summary>
    private void AwaitEndOfReceiver(string why)
    {
        long began = Stopwatch.GetTimestamp();
        while (!_destination.WaitForEnd(TimeSpan.FromMilliseconds(50)) && !HasNobody(began))
        {
            if (Stopwatch.GetElapsedTime(began) > SoakScene.StepLimit)
                break;
        }

        if (!HasNobody(began))
        {
            SoakScene.AwaitEnd(_destination, why, 1);
            return;
        }

        _nobodyCame = true;
        ControlSocket.Ask(scene.Folder, _destination.Name, "stop", 30_000);
        SoakScene.AwaitEnd(_destination, "it was told to stop", 0);
    }

    /// <summary>The receiver still waits for a first source, and what was sent to it has had the time to arrive.</summary>
    private bool HasNobody(long since) =>
        !_destination.HasEnded && !_destination.HasSource && Stopwatch.GetElapsedTime(since) > TimeSpan.FromSeconds(2)
        && (string?)scene.Status(_destination)?["state"] == "receiving";

    private SoakRoundResult Resolve(string outcome)
    {
        RequireExit(_migrate, StateUnknown);
        RequireStill();
        if (_proxy is not null && !plan.Operator)
            _proxy.Refuses = false;
        bool reachable = !_killedDestination && !plan.Operator;
        int code = RunResolve(out string state);
        if (reachable != (code == 0))
            throw new SoakViolationException($"resolve ended with code {code} where the destination {(reachable ? "answers" : "does not answer")}.");
        if (code != 0)
            state = Decide();
        _resolved = true;
        return state == "moved" ? Moved(outcome) : Stayed(outcome);
    }

    /// <summary>What a person does who can see both sides.</summary>
    private string Decide()
    {
        bool runsThere = !_destination.HasEnded && (string?)scene.Status(_destination)?["state"] == "running";
        if (!runsThere && !_killedDestination)
        {
            _killedDestination = true;
            _destination.Kill();
        }

        int code = RunResolve(out string state, runsThere ? "--moved" : "--run-here");
        if (code != 0 || state != (runsThere ? "moved" : "running"))
            throw new SoakViolationException($"resolve, told {(runsThere ? "--moved" : "--run-here")}, ended with code {code} and \"{state}\".");
        return state;
    }

    private int RunResolve(out string state, params string[] decision)
    {
        SoakProcess resolve = scene.Start($"{plan.Round}-resolve", $"resolve{plan.Round}", ["resolve", source.Name, "--json", .. decision]);
        SoakScene.AwaitEnd(resolve, "it was asked", 0, Inconclusive);
        state = (string?)resolve.FindResult()?["state"] ?? "";
        int code = resolve.ExitCode;
        scene.Remove(resolve);
        return code;
    }

    private static void RequireExit(SoakProcess process, int code)
    {
        if (process.ExitCode != code)
            throw new SoakViolationException(string.Create(CultureInfo.InvariantCulture, $"{process.Name} ended with code {process.ExitCode}, not {code}."));
    }

    private void RequireStill()
    {
        JsonObject? first = scene.Status(source);
        Thread.Sleep(150);
        JsonObject? second = scene.Status(source);
        if (first is null || second is null || (string?)first["state"] != "unknown" || RunnerWatch.StepsOf(first) != RunnerWatch.StepsOf(second))
            throw new SoakViolationException($"The source of an unknown outcome does not stand still: {(string?)first?["state"]}.");
    }

    /// <summary>It runs: state, progress of processor and each device, and nothing of what it reads is wrong.</summary>
    private void RequireRunning(SoakProcess process)
    {
        JsonObject? first = null;
        SoakScene.Await("it runs", process, () => (string?)(first = scene.Status(process))?["state"] == "running");
        JsonObject? now = null;
        try
        {
            SoakScene.Await("all of it works", process, () => (now = scene.Status(process)) is not null && IsAhead(first!, now));
        }
        catch (SoakViolationException violation)
        {
            throw new SoakViolationException(violation.Message)
            {
                Evidence = $"  first: {first!.ToJsonString()}\n  last: {now?.ToJsonString() ?? "no answer"}\n{process.DescribeThreads()}",
            };
        }

        ulong errors = now!["stalePages"]!.GetValue<ulong>();
        string? cause = errors > 0 ? $"{errors} pages older than they were written" : (string?)now["failure"];
        foreach (JsonNode? device in now["devices"]!.AsArray())
        {
            errors += device!["dataErrors"]!.GetValue<ulong>();
            cause ??= (string?)device["firstError"];
        }

        if (errors > 0 || cause is not null)
            throw new SoakViolationException($"{errors} data errors in {process.Name}: {cause}");
    }

    private static bool IsAhead(JsonObject before, JsonObject now)
    {
        if ((string?)now["failure"] is not null)
            return true;
        bool ahead = now["pagesWritten"]!.GetValue<ulong>() > before["pagesWritten"]!.GetValue<ulong>();
        for (int index = 0; index < before["devices"]!.AsArray().Count; index++)
            ahead &= now["devices"]![index]!["readsHere"]!.GetValue<ulong>() > before["devices"]![index]!["readsHere"]!.GetValue<ulong>();
        return ahead;
    }
}
