using System.Diagnostics;
using System.Globalization;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>What a row that compares in pairs is told on its command line.</summary>
internal sealed class BenchArguments
{
    private const ulong MiB = 1UL << 20;

    internal ulong MemoryBytes { get; private set; }

    internal int Pairs { get; private set; }

    /// <summary>The rows to measure; all that there are if none was named.</summary>
    internal IReadOnlyList<string> Rows { get; private set; } = [];

    /// <summary>Null: a message was written.</summary>
    internal static BenchArguments? Read(
        string command, IReadOnlyList<string> arguments, ulong memoryBytes, int pairs, params string[] rows)
    {
        var chosen = new List<string>();
        ulong memory = memoryBytes;
        int count = pairs;
        for (int index = 0; index < arguments.Count; index += 2)
        {
            string value = index + 1 < arguments.Count ? arguments[index + 1] : "";
            bool good = arguments[index] switch
            {
                "--memory" => ByteSize.TryParse(value, out memory) && memory >= 64 * MiB && memory <= 2048 * MiB && memory % (2 * MiB) == 0,
                "--pairs" => int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out count) && count is >= 1 and <= 99,
                "--row" => rows.Contains(value),
                _ => false,
            };
            if (!good)
            {
                Console.Error.WriteLine($"bench {command}: {arguments[index]} {value} is not understood.");
                return null;
            }

            if (arguments[index] == "--row")
                chosen.Add(value);
        }

        return new BenchArguments { MemoryBytes = memory, Pairs = count, Rows = chosen.Count > 0 ? chosen : rows };
    }

    /// <summary>False: the program is not there, and a message was written.</summary>
    internal static bool FindProgram(string command)
    {
        if (File.Exists(MigrationRun.Program))
            return true;
        Console.Error.WriteLine($"bench {command}: {MigrationRun.Program} is missing; build src/Tidemark.Cli -c Release first.");
        return false;
    }

    /// <summary>Load averages: what else runs on the machine is part of the result.</summary>
    internal static string Load() => string.Join(' ', File.ReadAllText("/proc/loadavg").Split(' ')[..3]);

    /// <summary>The script bench/peer/qemu knows where the peer is, and fetches it the first time. Null: it failed.</summary>
    internal static string? FindQemu()
    {
        string script = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "..", "bench", "peer", "qemu"));
        using Process process = Process.Start(new ProcessStartInfo(script) { RedirectStandardOutput = true })
            ?? throw new InvalidOperationException($"{script} was not started.");
        string path = process.StandardOutput.ReadToEnd().Trim();
        process.WaitForExit();
        return process.ExitCode == 0 ? path : null;
    }
}
