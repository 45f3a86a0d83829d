using System.Diagnostics;
using System.Text.Json.Nodes;
using Microsoft.Win32.SafeHandles;

namespace Tidemark.Bench;

/// <summary>
/// A machine of QEMU, saved to a file and run from it again: mapped-ram, multifd, past the page cache. It stands still, and
/// its memory is a shared file that was filled before.
/// </summary>
internal sealed class QemuFile : IDisposable
{
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
        QemuProcess.MakeMemory(_source, memoryBytes, memoryBytes).Dispose();
    }

    /// <summary>Seconds from the command until the file is in stable storage.</summary>
    internal double Save(string path)
    {
        using QemuProcess qemu = Start("save", _source, touched: true);
        long start = Stopwatch.GetTimestamp();
        qemu.Qmp.Execute("migrate", new JsonObject { ["uri"] = $"file:{path}" });
        qemu.Qmp.AwaitMigration("completed");
        // Ours syncs; QEMU leaves that to whoever asked.
        using (SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite))
            RandomAccess.FlushToDisk(file);
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Seconds from the command until it could run, in a process that stood ready, into untouched memory.</summary>
    internal double Restore(string path)
    {
        try
        {
            using QemuProcess qemu = Start("restore", _restored, touched: false, "-incoming", "defer");
            FreeMemory.Warm(_memoryBytes);
            long start = Stopwatch.GetTimestamp();
            qemu.Qmp.Execute("migrate-incoming", new JsonObject { ["uri"] = $"file:{path}" });
            qemu.Qmp.AwaitMigration("completed");
            return Stopwatch.GetElapsedTime(start).TotalSeconds;
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

    private void DeleteMemory(object? sender, EventArgs happened)
    {
        File.Delete(_source);
        File.Delete(_restored);
    }

    private QemuProcess Start(string name, string memory, bool touched, params string[] more)
    {
        var qemu = new QemuProcess(_program, _folder, name, memory, _memoryBytes, touched, ["-S", .. more]);
        qemu.Enable("events", "mapped-ram", "multifd");
        qemu.Qmp.Execute("migrate-set-parameters", new JsonObject
        {
            ["max-bandwidth"] = 100_000_000_000, ["multifd-channels"] = _channels, ["direct-io"] = true,
        });
        return qemu;
    }
}
