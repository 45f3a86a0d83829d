using System.Diagnostics;
using System.Globalization;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>What a command that compares in pairs is told on its command line; made with its defaults and bounds.</summary>
internal sealed class BenchArguments(string command)
{
    private const ulong MiB = 1UL << 20;

    private readonly List<string> _rows = [];

    internal required ulong MemoryBytes { get; set; }

    internal ulong LeastBytes { get; init; } = 64 * MiB;

    internal ulong MostBytes { get; init; } = ulong.MaxValue;

    internal required int Pairs { get; set; }

    /// <summary>0: not to be chosen here.</summary>
    internal int Channels { get; set; }

    internal IReadOnlyList<string> AllRows { get; init; } = [];

    /// <summary>The rows to measure; all that there are if none was named.</summary>
    internal IReadOnlyList<string> Rows => _rows.Count > 0 ? _rows : AllRows;

    /// <summary>False: a message was written.</summary>
    internal bool TryRead(IReadOnlyList<string> arguments)
    {
        for (int index = 0; index < arguments.Count; index += 2)
        {
            string value = index + 1 < arguments.Count ? arguments[index + 1] : "";
            if (!TryTake(arguments[index], value))
            {
                Console.Error.WriteLine($"bench {command}: {arguments[index]} {value} is not understood; without arguments this program says what is.");
                return false;
            }
        }

        return true;
    }

    /// <summary>False: the program is not there, and a message was written.</summary>
    internal static bool FindProgram(string command)
    {
        if (File.Exists(MachineMove.Program))
            return true;
        Console.Error.WriteLine($"bench {command}: {MachineMove.Program} is missing; build src/Tidemark.Cli in the same configuration first.");
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

    private bool TryTake(string option, string value)
    {
        switch (option)
        {
            case "--memory":
                if (!ByteSize.TryParse(value, out ulong bytes) || bytes < LeastBytes || bytes > MostBytes || bytes % (2 * MiB) != 0)
                    return false;
                MemoryBytes = bytes;
                return true;
            case "--pairs":
                if (!TryCount(value, 99, out int pairs))
                    return false;
                Pairs = pairs;
                return true;
            case "--channels":
                if (Channels == 0 || !TryCount(value, 64, out int channels))
                    return false;
                Channels = channels;
                return true;
            case "--row":
                if (!AllRows.Contains(value))
                    return false;
                _rows.Add(value);
                return true;
            default:
                return false;
        }
    }

    private static bool TryCount(string text, int maximum, out int count) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out count) && count >= 1 && count <= maximum;
}
