using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace Tidemark.Bench.Soak;

/// <summary>
/// Migrations back and forth between real processes, with something done to most of them, for so many minutes. Each round
/// is judged by itself (<see cref="SoakRound"/>), and each process that survives rounds by what it holds
/// (<see cref="LeakWatch"/>).
/// </summary>
internal sealed class SoakBench : IDisposable
{
    /// <summary>LIMIT: what is broken in so many ways needs no more evidence.</summary>
    private const int MaximumViolations = 5;

    private static readonly TimeSpan s_lineEvery = TimeSpan.FromSeconds(10);

    private readonly SoakOptions _options;
    private readonly TextWriter _say;
    private readonly SoakScene _scene = new();
    private readonly SoakTally _tally = new();
    private readonly List<LeakWatch> _processes = [];
    private readonly long _began = Stopwatch.GetTimestamp();
    private readonly bool _compression = NativeLibrary.TryLoad("libzstd.so.1", out _);
    private SoakProcess? _runner;
    private LeakWatch _leaks = new();
    private long _lastLine;
    private TimeSpan _rested;
    private volatile bool _asked;

    private SoakBench(SoakOptions options)
    {
        _options = options;
        // Results of --json are alone on standard output.
        _say = options.Json ? Console.Error : Console.Out;
    }

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        if (SoakOptions.Parse(arguments, json) is not { } options)
            return 64;
        if (!BenchArguments.FindProgram("soak"))
            return 1;
        using var soak = new SoakBench(options);
        return soak.Run();
    }

    public void Dispose() => _scene.Dispose();

    private int Run()
    {
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, EndAfterRound);
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, EndAfterRound);
        Say($"soak: seed {_options.Seed}, {(_options.Steps ? "each step of the hand-over" : $"{_options.Minutes} minutes")}, "
            + $"compression {(_compression ? "too" : "not, there is no libzstd.so.1")}, {_scene.Folder}");
        if (!_options.Steps)
            _scene.MakeCertificates();
        foreach (SoakPlan plan in Plans())
        {
            RunRound(plan);
            if (_asked || _tally.Violations.Count >= (_options.Plant is null ? MaximumViolations : 1))
                break;
            if (Stopwatch.GetElapsedTime(_lastLine) >= s_lineEvery)
                TellProgress();
        }

        StopRunner();
        EndProcess();
        Report();
        return _tally.Violations.Count == 0 ? 0 : 1;
    }

    /// <summary>What was found until then is reported all the same.</summary>
    private void EndAfterRound(PosixSignalContext signal)
    {
        signal.Cancel = true;
        _asked = true;
    }

    /// <summary>Without the time in which it rested for a measurement.</summary>
    private TimeSpan Elapsed => Stopwatch.GetElapsedTime(_began) - _rested;

    private IEnumerable<SoakPlan> Plans()
    {
        if (_options.Steps)
            return SoakSteps.All(_options.Phases);
        if (_options.Round is { } round)
            return [SoakPlan.Draw(_options.Seed, round, _compression)];
        return Enumerable.Range(0, _options.Rounds)
            .TakeWhile(_ => Elapsed.TotalMinutes < _options.Minutes)
            .Select(number => SoakPlan.Draw(_options.Seed, number, _compression));
    }

    private void RunRound(SoakPlan plan)
    {
        using QuietMachine turn = AwaitTurn();
        long began = Stopwatch.GetTimestamp();
        try
        {
            SoakProcess source = RequireRunner(plan);
            using var round = new SoakRound(_scene, plan, source);
            SoakRoundResult result = round.Run();
            round.Tidy(result.Runner);
            RequireNoStrays();
            Note($"{plan} -> {result.Outcome}, {result.End}, {Stopwatch.GetElapsedTime(began).TotalSeconds:0.0} s");
            _tally.Add(plan, result);
            if (result.Runner != source)
                EndProcess();
            _runner = result.Runner;
            if (_runner is not null && _leaks.Look(_runner.Id) is { } leak)
                throw new SoakViolationException($"A leak in {_runner.Name} after {_leaks.Figures.Count} migrations: {leak}");
        }
        catch (SoakViolationException violation)
        {
            // Everything that was there is evidence; the next round begins with nothing.
            Note($"{plan} -> {violation.Message}");
            Tell(plan, violation);
        }
    }

    /// <summary>
    /// While something is measured no machine runs: the next round begins with a new one. (One that is only frozen misses the
    /// time limits of its devices' driver.)
    /// </summary>
    private QuietMachine AwaitTurn()
    {
        if (!QuietMachine.IsWanted())
            return QuietMachine.Hold(tells: false);
        StopRunner();
        EndProcess();
        long asked = Stopwatch.GetTimestamp();
        QuietMachine turn = QuietMachine.Hold(tells: false);
        _rested += Stopwatch.GetElapsedTime(asked);
        return turn;
    }

    private void Tell(SoakPlan plan, SoakViolationException violation)
    {
        _scene.Keep = true;
        _scene.EndAll();
        EndProcess();
        _runner = null;
        _tally.LostPages += violation.LostPages;
        string again = _options.Steps ? _options.Phases ? "--phases" : "--steps" : $"--seed {_options.Seed} --round {plan.Round}";
        string text = $"round {plan.Round} ({plan.Kind}): {violation.Message} Again: bench/soak {again}";
        _tally.AddViolation(text);
        Say($"VIOLATION: {text}");
        Say($"  {plan}");
        Say($"  logs: {_scene.Logs}/{plan.Round}-*.log and those of the machine, {_scene.Logs}/*-run.log");
        if (violation.Evidence.Length > 0)
            Say(violation.Evidence);
    }

    /// <summary>The machine of the round's stretch: the one that runs, or a new one.</summary>
    private SoakProcess RequireRunner(SoakPlan plan)
    {
        if (_runner is not null && (plan.Round != SoakPlan.BeginOfStretch(plan.Round) || _options.Steps))
            return _runner;
        StopRunner();
        EndProcess();
        _scene.WriteMachine(_options.Steps ? SoakSteps.Shape : SoakShape.Draw(_options.Seed, plan.Round));
        string name = $"s{plan.Round}";
        string[] plant = _options.Plant is null ? [] : ["--plant", _options.Plant];
        SoakProcess process = _scene.Start(
            $"{plan.Round}-run", name, ["run", _scene.MachineFile, "--name", name, "--tied", "--verbose", .. plant]);
        SoakScene.Await("it runs", process, () => process.Find(" runs (kernel=") is not null);
        return process;
    }

    private void StopRunner()
    {
        if (_runner is null)
            return;
        ControlSocket.Ask(_scene.Folder, _runner.Name, "stop", 30_000);
        SoakScene.AwaitEnd(_runner, "it was told to stop", 0);
        _scene.Remove(_runner);
        _runner = null;
    }

    private void EndProcess()
    {
        if (_leaks.Figures.Count > 0)
            _processes.Add(_leaks);
        _leaks = new LeakWatch();
    }

    private void RequireNoStrays()
    {
        string[] strays = [];
        for (int look = 0; look < 50; look++)
        {
            strays = [.. _scene.FindStrays()];
            if (strays.Length == 0)
                return;
            Thread.Sleep(100);
        }

        throw new SoakViolationException($"After the round {string.Join(", ", strays)}.");
    }

    private void TellProgress()
    {
        _lastLine = Stopwatch.GetTimestamp();
        Say(string.Create(CultureInfo.InvariantCulture, $"{Elapsed.TotalMinutes:0.0} min, {_tally.Line()}"));
    }

    private void Report()
    {
        TellProgress();
        Say($"lost pages {_tally.LostPages}; cancels: {_tally.Cancels()}");
        Say(DescribeMemory());
        Say(_tally.Violations.Count == 0 ? "soak: no violation" : $"soak: {_tally.Violations.Count} violations, seed {_options.Seed}; all logs in {_scene.Folder}");
        if (!_options.Json)
            return;
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteNumber("seed", _options.Seed);
        writer.WriteNumber("minutes", Math.Round(Elapsed.TotalMinutes, 2));
        _tally.Write(writer);
        if (Slopes() is { Length: > 0 } slopes)
            writer.WriteNumber("memoryKiBPerMigration", Math.Round(slopes[slopes.Length / 2]));
        if (SlopesWhenSettled() is { Length: > 0 } settled)
            writer.WriteNumber("memoryKiBPerMigrationWhenSettled", Math.Round(settled[settled.Length / 2]));
        writer.WriteNumber("longestLife", _processes.Select(process => process.Figures.Count).DefaultIfEmpty().Max());
        writer.WriteEndObject();
    }

    /// <summary>Of the processes that lived long enough to have one, sorted.</summary>
    private double[] Slopes() => [.. _processes
        .Where(process => process.Figures.Count >= 8).Select(process => process.Slope()).OfType<double>().Order()];

    private double[] SlopesWhenSettled() => [.. _processes.Select(process => process.SlopeWhenSettled()).OfType<double>().Order()];

    private string DescribeMemory()
    {
        double[] settled = SlopesWhenSettled();
        double[] slopes = Slopes();
        int longest = _processes.Select(process => process.Figures.Count).DefaultIfEmpty().Max();
        ProcessFigures[] all = [.. _processes.SelectMany(process => process.Figures)];
        string held = all.Length == 0 ? "" : $"; descriptors {all.Min(f => f.Descriptors)} to {all.Max(f => f.Descriptors)}, "
            + $"private memory {all.Min(f => f.PrivateKiB) >> 10} to {all.Max(f => f.PrivateKiB) >> 10} MiB";
        string slope = slopes.Length == 0
            ? "no process survived 8 migrations"
            : string.Create(CultureInfo.InvariantCulture, $"private memory {slopes[slopes.Length / 2]:+0;-0;0} KiB a migration "
                + $"(median of {slopes.Length} processes that survived 8 or more, {slopes[0]:+0;-0;0} to {slopes[^1]:+0;-0;0})");
        if (settled.Length > 0)
        {
            slope += string.Create(CultureInfo.InvariantCulture, $"; in the second half of the {settled.Length} long lives "
                + $"{settled[settled.Length / 2]:+0;-0;0} KiB ({settled[0]:+0;-0;0} to {settled[^1]:+0;-0;0})");
        }

        return $"{slope}; longest life {longest} migrations{held}";
    }

    private void Note(string line) => File.AppendAllText(Path.Combine(_scene.Logs, "rounds.log"), line + "\n");

    private void Say(string line)
    {
        _say.WriteLine(line);
        _say.Flush();
    }
}
