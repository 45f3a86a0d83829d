using System.Diagnostics;
using System.IO.MemoryMappedFiles;
using System.Text.Json.Nodes;

namespace Tidemark.Bench;

/// <summary>
/// One migration by QEMU of a machine that writes at a given rate: its guest is bench/peer/dirtier.S, assembled here.
/// </summary>
internal sealed class QemuPause : IDisposable
{
    private const int Parameters = 0x1000;
    private const int Heartbeat = 0x2000;
    private const int Written = 0x2008;
    private const int PageSize = 4096;

    /// <summary>LIMIT: a migration that does not converge is broken off after this.</summary>
    private static readonly TimeSpan Longest = TimeSpan.FromSeconds(20);

    private readonly string _program;
    private readonly ulong _memoryBytes;
    private readonly string _folder = Directory.CreateTempSubdirectory("tidemark-peer-").FullName;
    private readonly string _firmware;

    internal QemuPause(string program, ulong memoryBytes)
    {
        _program = program;
        _memoryBytes = memoryBytes;
        AppDomain.CurrentDomain.ProcessExit += DeleteMemory;
        _firmware = Path.Combine(_folder, "dirtier.bin");
        string source = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "..", "bench", "peer", "dirtier.S"));
        string link = Path.Combine(_folder, "dirtier.o");
        Do("as", "--32", "-o", link, source);
        Do("ld", "-m", "elf_i386", "-e", "image", "-Ttext", "0xffff0000", "--oformat", "binary", "-o", _firmware, link);
    }

    private static string MemoryOf(string name) => $"/dev/shm/tidemark-peer-{Environment.ProcessId}-{name}";

    internal Pause Measure(PauseRow row)
    {
        string from = MemoryOf("source");
        string to = MemoryOf("destination");
        try
        {
            FillMemory(from, row);
            using QemuProcess destination = Start("destination", to, "-incoming", "defer");
            using QemuProcess source = Start("source", from);
            Prepare(source, row);
            Prepare(destination, row);
            destination.Qmp.Execute("migrate-incoming", new JsonObject { ["uri"] = "tcp:127.0.0.1:0" });
            JsonNode address = destination.Qmp.Execute("query-migrate")["socket-address"]![0]!;
            string uri = $"tcp:127.0.0.1:{address["port"]!.GetValue<string>()}";
            Thread.Sleep(OursPause.Settle);
            double rate = RateOf(from);
            using var watch = new HeartbeatWatch([OpenMemory(from), OpenMemory(to)], Heartbeat);
            long start = Stopwatch.GetTimestamp();
            source.Qmp.Execute("migrate", new JsonObject { ["uri"] = uri });
            JsonNode result = Await(source.Qmp);
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            bool completed = result["status"]!.GetValue<string>() == "completed";
            if (completed)
                destination.Qmp.AwaitMigration("completed");
            return new Pause(
                watch.End(), result["downtime"]?.GetValue<double>() ?? 0, 0, result["ram"]!["transferred"]!.GetValue<double>(),
                result["ram"]!["dirty-sync-count"]!.GetValue<int>(), completed, seconds, rate);
        }
        finally
        {
            DeleteMemory(null, EventArgs.Empty);
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
        File.Delete(MemoryOf("source"));
        File.Delete(MemoryOf("destination"));
    }

    /// <summary>As our machine: incompressible but for the working set at the end, and what the guest is to do.</summary>
    private void FillMemory(string path, PauseRow row)
    {
        ulong workingSet = OursPause.WorkingSet(_memoryBytes);
        using FileStream file = QemuProcess.MakeMemory(path, _memoryBytes, _memoryBytes - workingSet);
        Span<byte> words = stackalloc byte[3 * sizeof(uint)];
        BitConverter.TryWriteBytes(words, (uint)(row.WritesPerSecond / PageSize));
        BitConverter.TryWriteBytes(words[4..], (uint)((_memoryBytes - workingSet) / PageSize));
        BitConverter.TryWriteBytes(words[8..], (uint)(workingSet / PageSize));
        file.Position = Parameters;
        file.Write(words);
        file.Position = Heartbeat;
        file.Write(new byte[PageSize]);
    }

    private QemuProcess Start(string name, string memory, params string[] more) =>
        new(_program, _folder, name, memory, _memoryBytes, touched: true, ["-bios", _firmware, .. more]);

    private static void Prepare(QemuProcess qemu, PauseRow row)
    {
        var parameters = new JsonObject
        {
            ["max-bandwidth"] = row.LinkBytesPerSecond ?? 100_000_000_000,
            ["multifd-channels"] = 2,
        };
        if (row.PeerLimitMilliseconds is { } limit)
            parameters["downtime-limit"] = limit;
        qemu.Enable("events", "multifd");
        qemu.Qmp.Execute("migrate-set-parameters", parameters);
    }

    /// <summary>Waits for the end, and breaks off what has none.</summary>
    private static JsonNode Await(QmpClient qmp)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            JsonNode result = qmp.Execute("query-migrate");
            string status = result["status"]!.GetValue<string>();
            if (status is "completed" or "failed" or "cancelled")
                return result;
            if (Stopwatch.GetElapsedTime(start) > Longest)
            {
                qmp.Execute("migrate_cancel");
                return result;
            }

            Thread.Sleep(20);
        }
    }

    private static FileStream OpenMemory(string path) => new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);

    private static double RateOf(string memory)
    {
        using var file = MemoryMappedFile.CreateFromFile(
            OpenMemory(memory), null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
        using MemoryMappedViewAccessor view = file.CreateViewAccessor(Written, sizeof(ulong), MemoryMappedFileAccess.Read);
        ulong before = view.ReadUInt64(0);
        long start = Stopwatch.GetTimestamp();
        Thread.Sleep(500);
        return (view.ReadUInt64(0) - before) * PageSize / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static void Do(string program, params string[] arguments)
    {
        using Process process = Process.Start(program, arguments);
        process.WaitForExit();
        if (process.ExitCode != 0)
            throw new InvalidOperationException($"{program} failed; `apt-get install binutils` brings it.");
    }
}
