using System.Net.Sockets;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Kernel;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>A machine that goes from one process of this host to another, drawn in <see cref="LiveUpdateLink"/>.</summary>
internal sealed partial class MachineProcess
{
    /// <summary>LIMIT: the process that gives the machine away ends within this time, or is reported.</summary>
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(30);

    /// <summary>For tests: the step of a live update at which this process ends as if it was killed.</summary>
    public LiveUpdateStep? DieAtStep { get; init; }

    /// <summary>Ends this process by SIGKILL when it is at that step.</summary>
    public static void Die(LiveUpdateStep? at, LiveUpdateStep step)
    {
        if (at != step)
            return;
        System.Diagnostics.Process.GetCurrentProcess().Kill();
        Thread.Sleep(Timeout.Infinite);
    }

    /// <summary>Runs a machine that was taken over, until it is stopped or has moved away.</summary>
    /// <param name="oldProcess">The one that had it.</param>
    public int RunTaken(TimeSpan stoodStill, int oldProcess, CancellationToken cancellation)
    {
        AwaitEndOf(oldProcess, cancellation);
        _server = ControlServer.Open(_name, Answer);
        SetState(MachineState.Running);
        _terminal.Result(string.Create(System.Globalization.CultureInfo.InvariantCulture,
            $"{_name} runs here now (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId}); its processor stood still for {stoodStill.TotalMilliseconds:0.0} ms, its devices did not"));
        return WaitForEnd(cancellation);
    }

    /// <summary>
    /// The process that had the machine removes its control socket as it ends, in order or not; one that was opened before
    /// might be the one it removes. A machine that runs is no reason to end, so this waits as long as it takes.
    /// </summary>
    private void AwaitEndOf(int processId, CancellationToken cancellation)
    {
        long began = System.Diagnostics.Stopwatch.GetTimestamp();
        bool isTold = false;
        while (IsAlive(processId) && !cancellation.WaitHandle.WaitOne(20))
        {
            if (isTold || System.Diagnostics.Stopwatch.GetElapsedTime(began) < EndLimit)
                continue;
            isTold = true;
            _terminal.Error($"{_name} runs here, and can not be asked by its name before the process {processId}, which had it, has ended.");
        }
    }

    private static bool IsAlive(int processId)
    {
        try
        {
            // Behind the name in parentheses: its state, Z when nobody has asked yet how it ended.
            string stat = File.ReadAllText($"/proc/{processId}/stat");
            return stat[(stat.LastIndexOf(')') + 2)..] is not ['Z' or 'X', ..];
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // There is no such process.
            return false;
        }
    }

    private void DieAt(LiveUpdateStep step) => Die(DieAtStep, step);

    private void HandOver(JsonObject request, ControlChannel channel)
    {
        string path = (string?)request["to"] ?? throw new CommandFailure("A hand-over names the socket of the process that goes on.", ExitCode.Usage);
        EndMeasuring();
        using var cancel = new CancellationTokenSource();
        lock (_gate)
        {
            if (_state != MachineState.Running)
                throw new CommandFailure($"{_name} can not be handed over now: it is {_state.ToString().ToLowerInvariant()}.");
            _state = MachineState.Updating;
            _migrationCancel = cancel;
            _idle.Reset();
        }

        bool isTaken = false;
        try
        {
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            // What comes of it is told on that socket, to whoever listens there.
            channel.Send(new JsonObject { ["done"] = true, ["processId"] = Environment.ProcessId });
            LiveUpdateLink.HandOver(_machine, Kernel, socket, DieAt, cancel.Token);
            isTaken = true;
        }
        catch (Exception failure) when (failure is SocketException or KernelException)
        {
            // The machine runs on here; the other process sees its socket close.
            _terminal.Error($"{_name} was not handed over: {failure.Message}");
            if (failure is KernelException)
                return;
            throw new CommandFailure($"{_name} was not handed over: {path} can not be reached: {failure.Message}");
        }
        finally
        {
            EndMigration(
                isTaken ? MachineState.Moved : MachineState.Running, isTaken ? MigrationResult.Completed : MigrationResult.Cancelled);
        }

        _ended.Set();
    }

    /// <summary>A hand-over that is called back ends soon; until then nobody may touch the machine's devices.</summary>
    private void AwaitEndOfUpdate()
    {
        bool isUpdating;
        lock (_gate)
            isUpdating = _state == MachineState.Updating;
        if (isUpdating)
            _idle.Wait();
    }
}
