using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Tidemark.Bench;

/// <summary>
/// One migration by QEMU: two processes, a machine that stands still, memory in a shared file that was filled before. One
/// channel is its ordinary stream, more are multifd.
/// </summary>
internal sealed class QemuRun : IDisposable
{
    private readonly string _program;
    private readonly PeerRow _row;
    private readonly ulong _memoryBytes;
    private readonly string _folder;
    private readonly string _source = $"/dev/shm/tidemark-peer-{Environment.ProcessId}-source";
    private readonly string _destination = $"/dev/shm/tidemark-peer-{Environment.ProcessId}-destination";

    /// <summary>Makes the source's memory, which all runs share.</summary>
    internal QemuRun(string program, PeerRow row, ulong memoryBytes)
    {
        _program = program;
        _row = row;
        _memoryBytes = memoryBytes;
        _folder = Directory.CreateTempSubdirectory("tidemark-peer-").FullName;
        // Also when the bench is ended from outside: they are as large as the machine.
        AppDomain.CurrentDomain.ProcessExit += DeleteMemory;
        FreeMemory.Warm(memoryBytes);
        QemuProcess.MakeMemory(_source, memoryBytes, (ulong)(memoryBytes * row.Filled)).Dispose();
    }

    internal Move Measure()
    {
        try
        {
            FreeMemory.Warm(2 * _memoryBytes);
            using QemuProcess destination = Start("destination", _destination, _row.DestinationTouched, "-incoming", "defer");
            using QemuProcess source = Start("source", _source, _row.SourceTouched);
            string uri = _row.Unix ? $"unix:{_folder}/migration" : "tcp:127.0.0.1:0";
            Prepare(source);
            Prepare(destination);
            destination.Qmp.Execute("migrate-incoming", new JsonObject { ["uri"] = uri });
            if (!_row.Unix)
            {
                JsonNode address = destination.Qmp.Execute("query-migrate")["socket-address"]![0]!;
                uri = $"tcp:127.0.0.1:{address["port"]!.GetValue<string>()}";
            }

            FreeMemory.Warm(2 * _memoryBytes);
            double before = source.CpuSeconds + destination.CpuSeconds;
            long start = Stopwatch.GetTimestamp();
            source.Qmp.Execute("migrate", new JsonObject { ["uri"] = uri });
            source.Qmp.AwaitMigration("completed");
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            destination.Qmp.AwaitMigration("completed");
            double cpu = source.CpuSeconds + destination.CpuSeconds - before;
            JsonNode result = source.Qmp.Execute("query-migrate");
            double pause = result["downtime"]!.GetValue<double>();
            return new Move(_memoryBytes, seconds, seconds, cpu, pause);
        }
        finally
        {
            File.Delete(_destination);
        }
    }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= DeleteMemory;
        DeleteMemory(null, EventArgs.Empty);
        Directory.Delete(_folder, recursive: true);
    }

    private void DeleteMemory(object? sender, EventArgs happened)
    {
        File.Delete(_source);
        File.Delete(_destination);
    }

    private QemuProcess Start(string name, string memory, bool touched, params string[] more) =>
        new(_program, _folder, name, memory, _memoryBytes, touched, ["-S", .. more]);

    private void Prepare(QemuProcess qemu)
    {
        var parameters = new JsonObject { ["max-bandwidth"] = 100_000_000_000 };
        if (_row.Channels > 1)
            parameters["multifd-channels"] = _row.Channels;
        qemu.Enable(_row.Channels > 1 ? ["events", "multifd"] : ["events"]);
        qemu.Qmp.Execute("migrate-set-parameters", parameters);
    }
}
