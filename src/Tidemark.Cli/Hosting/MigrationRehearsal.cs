using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
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
/// It has a kernel, memory and a socket of its own, in a folder that is only this user's: nobody else can take part. It tells
/// nobody: no metrics, no events. Unlike a compiler's list of methods it can not forget one that the engine needs.
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
        string folder = Directory.CreateTempSubdirectory("tidemark-rehearsal-").FullName;
        try
        {
            var address = new MigrationAddress.Unix(Path.Combine(folder, "migration"));
            using Lobby lobby = MigrationWire.Listen(address, null, null, kernel, _ => { });
            using MigrationWire wire = MigrationWire.Connect(address, [], kernel);
            var receiver = new Thread(() => new MigrationDestination(
                destination, lobby, new DestinationOptions(), new Silence(), TimeProvider.System).Run(cancel))
            { IsBackground = true, Name = "tidemark rehearsal" };
            receiver.Start();
            MigrationOutcome outcome = new MigrationSource(source, wire.Connector, ReadOptions(), new Silence(), TimeProvider.System)
                .Run(cancel);
            receiver.Join();
            return outcome;
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
