using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace Tidemark.Bench.Soak;

/// <summary>One tidemark process of a soak; what it says is kept in a file. It ends with the soak at the latest.</summary>
internal sealed class SoakProcess : IDisposable
{
    private readonly Process _process;
    private readonly Lock _gate = new();
    private readonly List<string> _output = [];
    private readonly StreamWriter _log;
    private string? _phase;
    private bool _hasSource;
    private bool _hasUntoldSource;
    private bool _disposed;

    private SoakProcess(Process process, string name, string logFile)
    {
        _process = process;
        Name = name;
        LogFile = logFile;
        _log = new StreamWriter(logFile, append: true) { AutoFlush = true };
        _process.OutputDataReceived += (_, line) => Take(line.Data, isOutput: true);
        _process.ErrorDataReceived += (_, line) => Take(line.Data, isOutput: false);
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    /// <summary>The machine's name in this process, or the command's.</summary>
    internal string Name { get; }

    internal string LogFile { get; }

    internal int Id => _process.Id;

    internal bool HasEnded => _process.HasExited;

    internal int ExitCode => _process.ExitCode;

    /// <summary>The last phase of a migration that it has told (`--verbose` of `run`), or null.</summary>
    internal string? Phase
    {
        get { lock (_gate) return _phase; }
        set { lock (_gate) _phase = value; }
    }

    /// <summary>A receiver (`--verbose`) that knows who its source is; one that does not goes on waiting for one.</summary>
    internal bool HasSource
    {
        get { lock (_gate) return _hasSource; }
    }

    /// <summary>A destination that runs and believes that its source does not know.</summary>
    internal bool HasUntoldSource
    {
        get { lock (_gate) return _hasUntoldSource; }
    }

    internal static SoakProcess Start(string name, IEnumerable<string> arguments, string folder, string logFile)
    {
        var start = new ProcessStartInfo("dotnet")
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false,
            WorkingDirectory = folder,
        };
        start.ArgumentList.Add("exec");
        start.ArgumentList.Add(MachineMove.Program);
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        start.Environment["TIDEMARK_RUNTIME_DIR"] = folder;
        start.Environment["NO_COLOR"] = "1";
        File.AppendAllText(logFile, $"$ tidemark {string.Join(' ', start.ArgumentList.Skip(2))}\n");
        return new SoakProcess(
            Process.Start(start) ?? throw new InvalidOperationException($"{MachineMove.Program} was not started."), name, logFile);
    }

    /// <summary>The first line of output with the text, or null.</summary>
    internal string? Find(string text)
    {
        lock (_gate)
            return _output.Find(line => line.Contains(text, StringComparison.Ordinal));
    }

    /// <summary>The JSON object that it printed last, or null.</summary>
    internal JsonObject? FindResult()
    {
        lock (_gate)
        {
            string? last = _output.FindLast(line => line.StartsWith('{'));
            return last is null ? null : JsonNode.Parse(last)!.AsObject();
        }
    }

    internal bool WaitForEnd(TimeSpan limit)
    {
        if (!_process.WaitForExit(limit))
            return false;
        // The readers of its output have everything then. Nobody inherits its pipes, so that this ends.
        _process.WaitForExit();
        return true;
    }

    /// <summary>SIGKILL.</summary>
    internal void Kill()
    {
        if (!_process.HasExited)
            _process.Kill();
        _process.WaitForExit(10_000);
    }

    /// <summary>SIGTERM, as Ctrl-C.</summary>
    internal void Terminate()
    {
        using Process kill = Process.Start("kill", ["-TERM", $"{Id}"]);
        kill.WaitForExit(10_000);
    }

    /// <summary>A line for each thread: what it is called, and what it waits for in the kernel.</summary>
    internal string DescribeThreads()
    {
        var lines = new StringBuilder();
        try
        {
            foreach (string thread in Directory.EnumerateDirectories($"/proc/{Id}/task"))
            {
                string Read(string name) => File.ReadAllText(Path.Combine(thread, name)).Trim();
                lines.AppendLine(CultureInfo.InvariantCulture,
                    $"  thread {Path.GetFileName(thread)} {Read("comm")}: {Read("wchan")}, system call {Read("syscall")}");
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // A thread that ends is not what stands still.
            lines.AppendLine(CultureInfo.InvariantCulture, $"  threads: {failure.Message}");
        }

        return lines.ToString().TrimEnd();
    }

    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Kill();
        _process.Dispose();
        lock (_gate)
            _log.Dispose();
    }

    private void Take(string? line, bool isOutput)
    {
        if (line is null)
            return;
        lock (_gate)
        {
            if (_disposed)
                return;
            if (isOutput)
                _output.Add(line);
            const string Mark = "\"event\":\"phase\",\"phase\":\"";
            int at = line.IndexOf(Mark, StringComparison.Ordinal);
            if (at >= 0)
                _phase = line[(at + Mark.Length)..].Split('"')[0];
            _hasSource |= line.StartsWith("phase: negotiate", StringComparison.Ordinal);
            _hasUntoldSource |= line.Contains("the source could not be told", StringComparison.Ordinal);
            // The maps of a pass's dirty pages are long and explain nothing here.
            _log.WriteLine(line.Length > 2000 ? line[..2000] : line);
        }
    }
}
