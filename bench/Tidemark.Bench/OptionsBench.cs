using System.Globalization;
using System.Runtime.InteropServices;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>What the options of a migration cost or gain: the same machine moved with and without, in turns.</summary>
internal static class OptionsBench
{
    internal const string Tls = "tls";
    internal const string Incompressible = "compress";
    internal const string Capped = "compress-capped";

    private const ulong MiB = 1UL << 20;
    private const double Gigabyte = 1e9;

    /// <summary>The slow link, in bytes a second.</summary>
    private const string Cap = "100000000";

    /// <summary>LIMIT: 11 s at the cap. Less than about that is over before what is fixed costs little beside it.</summary>
    private const ulong CappedBytes = 1024 * MiB;

    internal static string[] Rows { get; } = [Tls, Incompressible, Capped];

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments("options") { MemoryBytes = 1024 * MiB, MostBytes = 2048 * MiB, Pairs = 5, AllRows = Rows };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram("options"))
            return 1;
        return PairFigures.Report(given.Rows.Select(row => row switch
        {
            Tls => MeasureTls(given, !json),
            Incompressible => MeasureCompression(given, given.MemoryBytes, capped: false, !json),
            _ => MeasureCompression(given, Math.Min(given.MemoryBytes, CappedBytes), capped: true, !json),
        }), json);
    }

    private static PairFigures MeasureTls(BenchArguments given, bool show)
    {
        if (show)
            Console.WriteLine($"{Tls}: TLS on all connections against plain, incompressible, 2 streams; {ByteSize.Format(given.MemoryBytes)}, {given.Pairs} pairs");
        string folder = Directory.CreateTempSubdirectory("tidemark-pki-").FullName;
        try
        {
            using (var made = ChildProgram.Start(
                MachineMove.Program, ["certificates", folder, "--host", "localhost", "--host", "127.0.0.1"]))
                made.ReadToEnd();
            MachineMove plain = Move(given.MemoryBytes);
            MachineMove secured = plain with
            {
                MigrateOptions = ["--tls", Path.Combine(folder, "localhost"), "--tls-peer", "localhost"],
                ReceiveOptions = ["--tls", Path.Combine(folder, "localhost")],
            };
            var figures = new PairFigures(Tls);
            Compare(given.Pairs, show, plain, secured, (without, with) =>
            {
                Transfer checks = LoopbackRun.Measure(given.MemoryBytes, 2, work: LoopbackWork.Checks);
                Transfer both = LoopbackRun.Measure(given.MemoryBytes, 2, work: LoopbackWork.Checks | LoopbackWork.Tls);
                figures.Add("speed of pass 0 / plain", Speed(with) / Speed(without), atLeast: 0.5);
                figures.Add("the same of checked loopback", both.BytesPerSecond / checks.BytesPerSecond);
                figures.Add("pass 0 / that loopback with TLS", Speed(with) * Gigabyte / both.BytesPerSecond);
                figures.Add("CPU s/GB, loopback with TLS", both.CpuSecondsPerGigabyte);
                figures.Add("speed of the whole / plain", without.Seconds / with.Seconds);
                figures.Add("GB/s of pass 0, plain", Speed(without));
                figures.Add("GB/s of pass 0, TLS", Speed(with));
                figures.Add("CPU s/GB, plain", Cpu(without, given.MemoryBytes));
                figures.Add("CPU s/GB, TLS", Cpu(with, given.MemoryBytes));
            });
            return figures;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static PairFigures MeasureCompression(BenchArguments given, ulong memoryBytes, bool capped, bool show)
    {
        string row = capped ? Capped : Incompressible;
        if (show)
        {
            string says = capped ? "compressible, 100 MB/s, 2 streams" : "incompressible, loopback, 2 streams";
            Console.WriteLine($"{row}: compression on automatic against off, {says}; {ByteSize.Format(memoryBytes)}, {given.Pairs} pairs");
        }

        MachineMove off = Move(memoryBytes) with
        {
            MigrateOptions = capped ? ["--bandwidth-limit", Cap] : [],
            Prepare = capped ? process => MakeCompressible(process, memoryBytes) : null,
        };
        MachineMove automatic = off with { MigrateOptions = [.. off.MigrateOptions, "--compress", "auto"] };
        var figures = new PairFigures(row);
        Compare(given.Pairs, show, off, automatic, (without, with) =>
        {
            if (capped)
                figures.Add("time off / time on automatic", without.Seconds / with.Seconds, atLeast: 2);
            else
                figures.Add("time on automatic / time off", with.Seconds / without.Seconds, atMost: 1.05);
            figures.Add("the same of pass 0 alone", capped ? without.PassSeconds / with.PassSeconds : with.PassSeconds / without.PassSeconds);
            figures.Add("bytes on the wire, of memory", with.PassBytes / (double)memoryBytes);
            figures.Add("CPU s/GB, off", Cpu(without, memoryBytes));
            figures.Add("CPU s/GB, automatic", Cpu(with, memoryBytes));
        });
        return figures;
    }

    /// <summary>Turn about, so that neither always runs on the memory that the other has just given back.</summary>
    private static void Compare(int pairs, bool show, MachineMove first, MachineMove second, Action<Moved, Moved> add)
    {
        for (int pair = 0; pair < pairs; pair++)
        {
            Moved? without = pair % 2 == 0 ? first.Run() : null;
            Moved with = second.Run();
            without ??= first.Run();
            add(without, with);
            if (show)
                Console.WriteLine($"{pair + 1,4}  without {Text(without)}  with {Text(with)}  load {BenchArguments.Load()}");
        }
    }

    private static double Speed(Moved moved) => moved.PassBytes / moved.PassSeconds / Gigabyte;

    private static double Cpu(Moved moved, ulong memoryBytes) => moved.CpuSeconds / (memoryBytes / Gigabyte);

    private static string Text(Moved moved) => string.Create(CultureInfo.InvariantCulture,
        $"{moved.Seconds * 1000:0} ms (pass {moved.PassSeconds * 1000:0})");

    private static MachineMove Move(ulong memoryBytes)
    {
        string machine = MachineMove.Describe(memoryBytes, memoryBytes - (4 * MiB));
        return new MachineMove(machine, machine);
    }

    /// <summary>
    /// Over all that the machine was filled with: records of 64 bytes as heaps and tables have them, a few fields that
    /// differ from record to record and many that do not. zstd makes about a quarter of it.
    /// </summary>
    private static void MakeCompressible(int processId, ulong memoryBytes)
    {
        using FileStream memory = ProcessMemory.Open(processId, FileAccess.ReadWrite);
        var random = new Random(1);
        byte[] piece = new byte[MiB];
        for (ulong at = 0; at < memoryBytes - (4 * MiB); at += MiB)
        {
            Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(piece.AsSpan());
            ulong address = 0x7f00_0000_0000 + at;
            for (int word = 0; word < words.Length; word += 8)
            {
                words[word] = 0x5555_0000_1000;
                words[word + 1] = address + (ulong)(random.Next(1 << 14) * 16);
                words[word + 2] = (ulong)random.NextInt64();
                words[word + 3] = 1;
                words[word + 4] = (ulong)random.Next(100);
                words[word + 5] = 0;
                words[word + 6] = address;
                words[word + 7] = 0x20_0000_0021;
            }

            memory.Seek((long)at, SeekOrigin.Begin);
            memory.Write(piece);
        }
    }
}
