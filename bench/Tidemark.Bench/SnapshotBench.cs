using System.Globalization;
using System.Text.Json;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>
/// A machine saved to a file and run from it again, by us and by QEMU (mapped-ram), in turns, and the disk alone before and
/// after each pair.
/// </summary>
internal static class SnapshotBench
{
    internal const string Row = "snapshot";

    private const ulong MiB = 1UL << 20;
    private const double Target = 1.25;

    /// <summary>As many as ours has threads.</summary>
    private const int Channels = 4;

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments(Row) { MemoryBytes = 1024 * MiB, MostBytes = 2048 * MiB, Pairs = 5 };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram(Row) || BenchArguments.FindQemu() is not { } qemu)
            return 1;
        if (!json)
            Console.WriteLine($"{Row}: save and restore against QEMU mapped-ram, incompressible, {Channels} threads; {ByteSize.Format(given.MemoryBytes)}, {given.Pairs} pairs");
        string folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        var figures = new PairFigures(Row);
        try
        {
            using var peer = new QemuFile(qemu, given.MemoryBytes, Channels);
            (double Write, double Read) before = DiskProbe.Measure(folder, given.MemoryBytes, Channels);
            for (int pair = 0; pair < given.Pairs; pair++)
            {
                // Turn about, so that neither always runs on the memory that the other has just given back.
                string theirFile = Path.Combine(folder, "qemu");
                (double Save, double Restore) theirs = pair % 2 == 0 ? Measure(peer, theirFile) : default;
                (double Save, double Restore, string How) ours = Measure(folder, given.MemoryBytes);
                if (pair % 2 != 0)
                    theirs = Measure(peer, theirFile);
                (double Write, double Read) after = DiskProbe.Measure(folder, given.MemoryBytes, Channels);
                (double write, double read) = ((before.Write + after.Write) / 2, (before.Read + after.Read) / 2);
                before = after;
                double gigabytes = given.MemoryBytes / 1e9;
                figures.Add("speed of save / QEMU", theirs.Save / ours.Save, atLeast: Target);
                figures.Add("speed of restore / QEMU", theirs.Restore / ours.Restore, atLeast: Target);
                figures.Add("speed of save / disk", write / ours.Save);
                figures.Add("speed of restore / disk", read / ours.Restore);
                figures.Add("disk, write, GB/s", gigabytes / write);
                figures.Add("disk, read, GB/s", gigabytes / read);
                figures.Add("save, GB/s", gigabytes / ours.Save);
                figures.Add("save by QEMU, GB/s", gigabytes / theirs.Save);
                figures.Add("restore, GB/s", gigabytes / ours.Restore);
                figures.Add("restore by QEMU, GB/s", gigabytes / theirs.Restore);
                if (!json)
                {
                    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                        $"{pair + 1,4}  save {ours.Save * 1000:0} ms, QEMU {theirs.Save * 1000:0} ms  restore {ours.Restore * 1000:0} ms, QEMU {theirs.Restore * 1000:0} ms  disk {write * 1000:0}, {read * 1000:0} ms  {ours.How}  load {BenchArguments.Load()}"));
                }
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        return figures.Report(json);
    }

    private static (double Save, double Restore) Measure(QemuFile peer, string file)
    {
        (double, double) measured = (peer.Save(file), peer.Restore(file));
        File.Delete(file);
        return measured;
    }

    /// <summary>Seconds as the product tells them: until the file is in stable storage; until memory is read.</summary>
    private static (double Save, double Restore, string How) Measure(string folder, ulong memoryBytes)
    {
        string machine = Path.Combine(folder, "machine.json");
        string file = Path.Combine(folder, "snapshot");
        File.WriteAllText(machine, MachineMove.Describe(memoryBytes, memoryBytes - (4 * MiB)));
        (double Seconds, string How) saved;
        using (var running = ChildProgram.Start(MachineMove.Program, ["run", machine, "--quiet", "--tied"], folder))
        {
            running.ReadUntil(" runs ");
            // What a process still does after its start is no part of it; QEMU has done nothing else either.
            Thread.Sleep(1000);
            using var save = ChildProgram.Start(MachineMove.Program, ["snapshot", "save", "bench", file, "--json"], folder);
            saved = Read(save.ReadUntil("{"));
        }

        // Memory that is touched as it is read, as at QEMU's.
        File.WriteAllText(machine, MachineMove.Describe(memoryBytes, memoryBytes - (4 * MiB), prefault: false));
        FreeMemory.Warm(memoryBytes);
        using var restore = ChildProgram.Start(
            MachineMove.Program, ["snapshot", "restore", file, machine, "--name", "restored", "--json"], folder);
        (double Seconds, string How) restored = Read(restore.ReadUntil("{"));
        using (var stop = ChildProgram.Start(MachineMove.Program, ["stop", "restored"], folder))
            stop.ReadToEnd();
        restore.ReadToEnd();
        File.Delete(file);
        return (saved.Seconds, restored.Seconds, $"{saved.How}/{restored.How}");
    }

    private static (double Seconds, string How) Read(string result)
    {
        using JsonDocument document = JsonDocument.Parse(result);
        JsonElement root = document.RootElement;
        if (root.GetProperty("outcome").GetString() != "completed")
            throw new InvalidOperationException($"It did not complete: {result}");
        return (root.GetProperty("totalMilliseconds").GetDouble() / 1000,
            root.GetProperty("directIO").GetBoolean() ? "direct" : "cached");
    }
}
