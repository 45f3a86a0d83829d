using System.Diagnostics;
using System.Globalization;

namespace Tidemark.Bench;

/// <summary>A program of ours in a process of its own. It ends with this object at the latest.</summary>
internal sealed class ChildProgram : IDisposable
{
    private readonly Process _process;

    private ChildProgram(Process process) => _process = process;

    internal int ProcessId => _process.Id;

    internal static ChildProgram Start(string program, IEnumerable<string> arguments, string? runtimeFolder = null)
    {
        var start = new ProcessStartInfo("dotnet")
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, UseShellExecute = false,
        };
        start.ArgumentList.Add("exec");
        start.ArgumentList.Add(program);
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        if (runtimeFolder is not null)
            start.Environment["TIDEMARK_RUNTIME_DIR"] = runtimeFolder;
        return new ChildProgram(Process.Start(start) ?? throw new InvalidOperationException($"{program} was not started."));
    }

    /// <summary>The next line of output that contains the text.</summary>
    internal string ReadUntil(string text)
    {
        while (_process.StandardOutput.ReadLine() is { } line)
        {
            if (line.Contains(text, StringComparison.Ordinal))
                return line;
        }

        throw new InvalidOperationException($"{_process.StartInfo.ArgumentList[1]} ended before it said \"{text}\".");
    }

    internal string ReadToEnd() => _process.StandardOutput.ReadToEnd();

    internal void Say(string line) => _process.StandardInput.WriteLine(line);

    /// <summary>Processor time so far, or null when the process has gone.</summary>
    internal static double? CpuSecondsOf(int processId) => CpuSecondsOf($"/proc/{processId}/stat");

    internal static double? CpuSecondsOf(string statFile)
    {
        try
        {
            string stat = File.ReadAllText(statFile);
            // The second field, the name in parentheses, may contain blanks. utime and stime are fields 14 and 15.
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return (double.Parse(fields[11], CultureInfo.InvariantCulture) + double.Parse(fields[12], CultureInfo.InvariantCulture)) / 100;
        }
        catch (IOException)
        {
            // It ended between two looks.
            return null;
        }
    }

    public void Dispose()
    {
        try
        {
            _process.StandardInput.Close();
        }
        catch (IOException)
        {
            // It has ended already.
        }

        if (!_process.WaitForExit(10_000))
            _process.Kill();
        _process.Dispose();
    }
}
