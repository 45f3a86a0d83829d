using System.Diagnostics;
using System.Text.Json.Nodes;
using Tidemark.Cli.Commands;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.Description;
using Tidemark.Machine.Hosting;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// The demo: the same three programs that a user would run, each in a process of its own.
/// <code>
/// demo --starts--> tidemark receive (destination, waits)          own runtime folder, removed at the end
///      --starts--> tidemark run     (source, its devices read)
///      --asks----> the source to migrate with --verify, and shows how that goes
///      --looks---> at the destination until its devices have read on
/// </code>
/// </summary>
internal sealed class Demo(DemoOptions options, Terminal terminal)
{
    private const string Source = "demo";
    private const string Destination = "demo-destination";

    /// <summary>LIMIT: a guest in software emulation is thirty times slower than a host, and compiles as it runs.</summary>
    private TimeSpan StartLimit => TimeSpan.FromSeconds(options.IsLinux ? 600 : 60);

    private TimeSpan ReadsLimit => TimeSpan.FromSeconds(options.IsLinux ? 120 : 10);

    public JsonObject Run(CancellationToken cancellation, out int exitCode)
    {
        if (HostLimits.FindMemoryShortage(new LinuxSysfs(), checked(2 * options.MemoryBytes), "A demo with both sides on one host") is { } shortage)
            throw new CommandFailure(shortage);
        string folder = MakeFolder();
        string? runtimeBefore = Environment.GetEnvironmentVariable("TIDEMARK_RUNTIME_DIR");
        try
        {
            Environment.SetEnvironmentVariable("TIDEMARK_RUNTIME_DIR", folder);
            DemoFiles files = DemoMachine.Write(folder, options);
            JsonArray? exercised = LookAtDevices(files.Source);
            JsonObject result = options.Plant == Plant.None
                ? RunOnce(folder, files, cancellation, out exitCode)
                : RunPlanted(folder, files, cancellation, out exitCode);
            if (exercised is null)
                return result;
            DemoExercises.AddMigration(exercised, result);
            result["exercised"] = exercised;
            if (exitCode == ExitCode.Done && DemoExercises.AnyFailed(exercised))
                exitCode = ExitCode.Failed;
            return result;
        }
        finally
        {
            Environment.SetEnvironmentVariable("TIDEMARK_RUNTIME_DIR", runtimeBefore);
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Checks real devices, and tries dirty tracking on the source's when asked; null: not asked.</summary>
    private JsonArray? LookAtDevices(string machineFile)
    {
        if (!options.IsLinux && !options.Exercise)
            return null;
        MachineDescription machine = SharedOptions.ReadMachineFile(machineFile);
        using KernelChoice kernel = KernelChoice.Create(options.Kernel, machine);
        if (options.IsLinux)
            DemoExercises.Check(kernel, options.Devices, terminal);
        return options.Exercise ? DemoExercises.Run(kernel, machine.Devices[0].Host, terminal) : null;
    }

    private static string MakeFolder()
    {
        try
        {
            return Directory.CreateTempSubdirectory("tidemark-demo-").FullName;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Nothing was made.
            throw new CommandFailure($"No folder can be made in {Path.GetTempPath()}: {failure.Message} Set TMPDIR to a folder of yours.");
        }
    }

    /// <summary>A racy plant may slip through once; how often it was tried is part of the result.</summary>
    private JsonObject RunPlanted(string folder, DemoFiles files, CancellationToken cancellation, out int exitCode)
    {
        JsonObject result = [];
        string? caughtBy = null;
        int runs = 0;
        while (caughtBy is null && runs < Plant.MaximumRuns)
        {
            runs++;
            result = RunOnce(folder, files, cancellation, out _);
            caughtBy = (string?)result["caughtBy"] ?? CaughtByWorkload(result);
            terminal.Note(caughtBy is null ? $"run {runs}: not caught" : $"run {runs}: caught by {caughtBy}");
        }

        result["plant"] = new JsonObject { ["name"] = options.Plant.Name, ["caughtBy"] = caughtBy, ["runs"] = runs };
        exitCode = caughtBy is null ? ExitCode.Failed : ExitCode.PlantCaught;
        return result;
    }

    private static string? CaughtByWorkload(JsonObject result) =>
        result["verified"]?["dataErrors"] is { } errors && errors.GetValue<ulong>() > 0 ? "workload-data-check" : null;

    private JsonObject RunOnce(string folder, DemoFiles files, CancellationToken cancellation, out int exitCode)
    {
        using ChildProcess destination = ChildProcess.Start(
            "destination",
            ["receive", files.Destination, "--name", Destination, "--kernel", options.Kernel, "--listen", "tcp:127.0.0.1:0", "--tied"],
            folder, terminal.Detail);
        string[] plant = options.Plant == Plant.None ? [] : ["--plant", options.Plant.Name];
        string[] exercise = options.Exercise ? ["--exercise"] : [];
        using ChildProcess source = ChildProcess.Start(
            "source", ["run", files.Source, "--name", Source, "--kernel", options.Kernel, "--tied", .. plant, .. exercise], folder, terminal.Detail);

        terminal.Note($"starting a machine with {ByteSize.Format(options.MemoryBytes)} of memory, and a process to take it ...");
        string address = (string)WaitFor(Destination, destination, status => (string?)status["listening"] is not null, StartLimit, cancellation)["listening"]!;
        JsonObject running = WaitFor(Source, source, AllDevicesRead, StartLimit, cancellation);
        ShowDevices(running);

        JsonObject result = MigrateCommand.Run(
            Source,
            new JsonObject
            {
                ["op"] = "migrate", ["to"] = address, ["channels"] = options.Channels,
                ["downtimeLimitMilliseconds"] = options.DowntimeLimitMilliseconds, ["verify"] = true,
            },
            terminal, cancellation);
        result.Remove("exitCode");
        exitCode = Judge(result, destination, cancellation);
        return result;
    }

    /// <summary>Adds what the other side says, and decides: done only if it moved and everything verified.</summary>
    private int Judge(JsonObject result, ChildProcess destination, CancellationToken cancellation)
    {
        JsonObject verified = result["verified"]!.AsObject();
        verified["dataErrors"] = 0UL;
        verified["readsAfterMove"] = 0UL;
        if ((string?)result["outcome"] != "completed")
            return (string?)result["outcome"] == "stateUnknown" ? ExitCode.StateUnknown : ExitCode.Failed;
        JsonObject status = WaitFor(Destination, destination, AllDevicesRead, ReadsLimit, cancellation, insist: false);
        ulong errors = status["stalePages"]!.GetValue<ulong>();
        ulong reads = 0;
        bool all = true;
        foreach (JsonNode? device in status["devices"]!.AsArray())
        {
            errors += device!["dataErrors"]!.GetValue<ulong>();
            reads += device["readsHere"]!.GetValue<ulong>();
            all &= device["readsHere"]!.GetValue<ulong>() > 0;
        }

        verified["dataErrors"] = errors;
        verified["readsAfterMove"] = reads;
        bool equal = verified["memoryEqual"]?.GetValue<bool>() ?? false;
        return equal && errors == 0 && all ? ExitCode.Done : ExitCode.Failed;
    }

    private static bool AllDevicesRead(JsonObject status) =>
        (string?)status["state"] == "running" && status["devices"]!.AsArray().All(device => device!["readsHere"]!.GetValue<ulong>() >= 8);

    private void ShowDevices(JsonObject status)
    {
        terminal.Note($"it runs (kernel={status["kernel"]}); processor writes are seen by {status["cpuTracking"]}");
        foreach (JsonNode? device in status["devices"]!.AsArray())
            terminal.Note($"  {(string)device!["name"]!,-14} tracked by {device["tracker"],-10} {device["reason"]}");
    }

    /// <summary>Asks a machine for its status until it is as wanted.</summary>
    private static JsonObject WaitFor(
        string machine, ChildProcess process, Func<JsonObject, bool> wanted, TimeSpan limit, CancellationToken cancellation, bool insist = true)
    {
        long began = Stopwatch.GetTimestamp();
        JsonObject? last = null;
        while (Stopwatch.GetElapsedTime(began) < limit)
        {
            cancellation.ThrowIfCancellationRequested();
            if (process.HasEnded)
                throw process.Failure();
            if (TryStatus(machine) is { } status)
            {
                last = status;
                if (wanted(status))
                    return status;
                if (insist && (string?)status["failure"] is { } failure)
                    throw new CommandFailure($"The machine does not work: {failure}");
            }

            cancellation.WaitHandle.WaitOne(TimeSpan.FromMilliseconds(50));
        }

        return !insist && last is not null ? last : throw process.Failure();
    }

    private static JsonObject? TryStatus(string machine)
    {
        using ControlClient? client = ControlClient.TryConnect(machine);
        try
        {
            return client?.Request(new JsonObject { ["op"] = "status" });
        }
        catch (CommandFailure)
        {
            // It is just starting or just ending; the caller asks again and watches the process.
            return null;
        }
    }
}
