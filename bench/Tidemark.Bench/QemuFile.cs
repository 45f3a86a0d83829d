using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Microsoft.Win32.SafeHandles;

namespace Tidemark.Bench;

/// <summary>
/// A machine of QEMU, saved to a file and run from it again: mapped-ram, multifd, past the page cache. It stands still, and
/// its memory is a shared file that was filled before.
/// </summary>
internal sealed class QemuFile : IDisposable
{
    private const int FillStep = 1 << 20;

    private readonly string _program;
    private readonly ulong _memoryBytes;
    private readonly int _channels;
    private readonly string _folder = Directory.CreateTempSubdirectory("tidemark-peer-").FullName;
    private readonly string _source = $"/dev/shm/tidemark-snapshot-{Environment.ProcessId}-source";
    private readonly string _restored = $"/dev/shm/tidemark-snapshot-{Environment.ProcessId}-restored";

    internal QemuFile(string program, ulong memoryBytes, int channels)
    {
        (_program, _memoryBytes, _channels) = (program, memoryBytes, channels);
        // Also when the bench is ended from outside: they are as large as the machine.
        AppDomain.CurrentDomain.ProcessExit += DeleteMemory;
        using FileStream file = File.Create(_source);
        file.SetLength((long)memoryBytes);
        var random = new Random(1);
        byte[] piece = new byte[FillStep];
        for (ulong at = 0; at < memoryBytes; at += FillStep)
        {
            random.NextBytes(piece);
            file.Write(piece);
        }
    }

    /// <summary>Seconds from the command until the file is in stable storage.</summary>
    internal double Save(string path)
    {
        using Process process = Start("save", _source, touched: true, out QmpClient client);
        using QmpClient qmp = client;
        Prepare(qmp);
        long start = Stopwatch.GetTimestamp();
        qmp.Execute("migrate", new JsonObject { ["uri"] = $"file:{path}" });
        qmp.AwaitMigration("completed");
        // Ours syncs; QEMU leaves that to whoever asked.
        using (SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite))
            RandomAccess.FlushToDisk(file);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        End(process);
        return seconds;
    }

    /// <summary>Seconds from the command until it could run, in a process that stood ready, into untouched memory.</summary>
    internal double Restore(string path)
    {
        try
        {
            using Process process = Start("restore", _restored, touched: false, out QmpClient client, "-incoming", "defer");
            using QmpClient qmp = client;
            Prepare(qmp);
            long start = Stopwatch.GetTimestamp();
            qmp.Execute("migrate-incoming", new JsonObject { ["uri"] = $"file:{path}" });
            qmp.AwaitMigration("completed");
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            End(process);
            return seconds;
        }
        finally
        {
            File.Delete(_restored);
        }
    }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= DeleteMemory;
        DeleteMemory(null, EventArgs.Empty);
        Directory.Delete(_folder, recursive: true);
    }

    private static void End(Process process)
    {
        process.Kill();
        process.WaitForExit();
    }

    private void DeleteMemory(object? sender, EventArgs happened)
    {
        File.Delete(_source);
        File.Delete(_restored);
    }

    private Process Start(string name, string memory, bool touched, out QmpClient qmp, params string[] more)
    {
        string size = string.Create(CultureInfo.InvariantCulture, $"{_memoryBytes >> 20}M");
        string socket = Path.Combine(_folder, name);
        File.Delete(socket);
        var start = new ProcessStartInfo(_program) { RedirectStandardOutput = true, UseShellExecute = false };
        string[] arguments =
        [
            "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S", "-m", size,
            "-machine", "q35,memory-backend=ram",
            "-object", $"memory-backend-file,id=ram,size={size},mem-path={memory},share=on,prealloc={(touched ? "on" : "off")}",
            "-qmp", $"unix:{socket},server=on,wait=off",
            .. more,
        ];
        Array.ForEach(arguments, start.ArgumentList.Add);
        Process process = Process.Start(start) ?? throw new InvalidOperationException("QEMU was not started.");
        qmp = new QmpClient(socket, () => !process.HasExited);
        return process;
    }

    private void Prepare(QmpClient qmp)
    {
        qmp.Execute("migrate-set-capabilities", new JsonObject
        {
            ["capabilities"] = new JsonArray { Capability("events"), Capability("mapped-ram"), Capability("multifd") },
        });
        qmp.Execute("migrate-set-parameters", new JsonObject
        {
            ["max-bandwidth"] = 100_000_000_000, ["multifd-channels"] = _channels, ["direct-io"] = true,
        });
    }

    private static JsonObject Capability(string name) => new JsonObject { ["capability"] = name, ["state"] = true };
}
