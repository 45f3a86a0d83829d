using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Machine;
using Tidemark.Machine.Description;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// A migration of a small machine without devices, from this process to itself: what the runtime loads, links and compiles
/// when a method is first called is there before the first real one, which otherwise pays for it (of 1 GiB: 150 of 590 ms
/// before the first page, and a third of the pause of an idle machine).
/// </summary>
/// <remarks>
/// It has a kernel, memory and a socket of its own, which has no name any more when it is first used: nobody else can take part,
/// and nothing is left of it when the process ends after that. It tells nobody: no metrics, no events. Unlike a compiler's list
/// of methods it can not forget one that the engine needs.
/// </remarks>
internal static class MigrationRehearsal
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);

    /// <returns>How it ended, in words.</returns>
    internal static string Run()
    {
        MigrationMetrics.Prepare();
        var description = new MachineDescription
        {
            Name = "rehearsal", MemoryBytes = 16 << 20, Workload = new WorkloadDescription { FillBytes = 4 << 20, CpuWorkingSetBytes = 1 << 20 },
        };
        var kernel = new LinuxKernel();
        using var limit = new CancellationTokenSource(s_limit);
        using GuestMachine source = GuestMachine.Assemble(description, kernel, new LinuxSysfs());
        using GuestMachine destination = GuestMachine.Assemble(description, kernel, new LinuxSysfs());
        source.StartFresh(limit.Token);
        ConnectAsRealOnesDo(kernel, limit.Token);
        MigrationOutcome outcome = Move(source, destination, kernel, limit.Token);
        return $"The rehearsal of a migration ended with {MigrationJson.Word(outcome.Result)} after {outcome.Report.TotalTime.TotalMilliseconds:0} ms.";
    }

    /// <summary>Most go over TCP. Nobody speaks behind this port: whoever else comes is hung up on.</summary>
    private static void ConnectAsRealOnesDo(LinuxKernel kernel, CancellationToken cancel)
    {
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0), kernel);
        using IConnection connection = new SocketConnector(MigrationAddress.Parse(acceptor.Address, out _)!, s_limit, kernel).Connect(cancel);
        acceptor.Accept(cancel).Dispose();
    }

    private static MigrationOutcome Move(GuestMachine source, GuestMachine destination, LinuxKernel kernel, CancellationToken cancel)
    {
        using Lobby lobby = ListenWithoutName(kernel, out KernelFd place);
        using KernelFd held = place;
        using MigrationWire wire = MigrationWire.Connect(new MigrationAddress.Unix($"/proc/self/fd/{held.Number}"), [], kernel);
        var receiver = new Thread(() => new MigrationDestination(
            destination, lobby, new DestinationOptions(), new Silence(), TimeProvider.System).Run(cancel))
        { IsBackground = true, Name = "tidemark rehearsal" };
        receiver.Start();
        MigrationOutcome outcome = new MigrationSource(source, wire.Connector, ReadOptions(), new Silence(), TimeProvider.System)
            .Run(cancel);
        receiver.Join();
        return outcome;
    }

    /// <param name="place">The socket's place (O_PATH), through which this process still finds it (proc(5)).</param>
    private static Lobby ListenWithoutName(LinuxKernel kernel, out KernelFd place)
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-rehearsal-").FullName;
        Lobby? lobby = null;
        try
        {
            string path = Path.Combine(folder, "migration");
            lobby = MigrationWire.Listen(new MigrationAddress.Unix(path), null, null, kernel, _ => { });
            SyscallResult opened = kernel.Open(path, OpenFlags.Path | OpenFlags.CloseOnExec);
            opened.ThrowIfFailed($"Opening the place of {path}");
            place = new KernelFd(kernel, (int)opened.Value);
            return lobby;
        }
        catch
        {
            // There is no rehearsal then.
            lobby?.Dispose();
            throw;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>As a control request brings them.</summary>
    private static MigrationOptions ReadOptions() => MigrationRequest.Read(JsonNode.Parse(
        """{ "channels": 2, "downtimeLimitMilliseconds": 300, "verify": true, "whenStuck": "give-up", "retryMilliseconds": 0, "compress": "off" }""")!
        .AsObject());

    /// <summary>Makes of each event what a real observer makes of it.</summary>
    private sealed class Silence : IMigrationObserver
    {
        public void OnEvent(MigrationEvent migrationEvent) => MigrationJson.Event(migrationEvent).ToJsonString();
    }
}
