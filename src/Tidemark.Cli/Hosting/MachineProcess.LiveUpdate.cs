using System.Net.Sockets;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Kernel;
using Tidemark.Machine.LiveUpdate;

namespace Tidemark.Cli.Hosting;

/// <summary>A machine that goes from one process of this host to another, drawn in <see cref="LiveUpdateLink"/>.</summary>
internal sealed partial class MachineProcess
{
    /// <summary>LIMIT: the process that gives the machine away ends within this time, or is reported.</summary>
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(30);

    /// <summary>Runs a machine that was taken over, until it is stopped or has moved away.</summary>
    public int RunTaken(TimeSpan stoodStill, CancellationToken cancellation)
    {
        AwaitFreeName();
        _server = ControlServer.Open(_name, Answer);
        SetState(MachineState.Running);
        _terminal.Result(string.Create(System.Globalization.CultureInfo.InvariantCulture,
            $"{_name} runs here now (kernel={_machine.KernelIdentity}, pid {Environment.ProcessId}); its processor stood still for {stoodStill.TotalMilliseconds:0.0} ms, its devices did not"));
        return WaitForEnd(cancellation);
    }

    /// <summary>The process that had the machine removes its socket when it ends; then the name is free.</summary>
    private void AwaitFreeName()
    {
        long began = System.Diagnostics.Stopwatch.GetTimestamp();
        while (File.Exists(RuntimeFolder.SocketOf(_name)) && System.Diagnostics.Stopwatch.GetElapsedTime(began) < EndLimit)
            Thread.Sleep(20);
    }

    private void HandOver(JsonObject request, ControlChannel channel)
    {
        string path = (string?)request["to"] ?? throw new CommandFailure("A hand-over names the socket of the process that goes on.", ExitCode.Usage);
        EndMeasuring();
        lock (_gate)
        {
            if (_state != MachineState.Running)
                throw new CommandFailure($"{_name} can not be handed over now: it is {_state.ToString().ToLowerInvariant()}.");
            _state = MachineState.Updating;
        }

        bool isTaken = false;
        try
        {
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            // What comes of it is told on that socket, to whoever listens there.
            channel.Send(new JsonObject { ["done"] = true });
            LiveUpdateLink.HandOver(_machine, Kernel, socket);
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
            SetState(isTaken ? MachineState.Moved : MachineState.Running);
        }

        _ended.Set();
    }
}
