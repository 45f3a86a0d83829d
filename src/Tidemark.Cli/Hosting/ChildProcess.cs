using System.Diagnostics;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// Another tidemark process that belongs to this one: it ends when its standard input does, so that it can not outlive
/// us however we end.
/// </summary>
internal sealed class ChildProcess : IDisposable
{
    private const int KeptLines = 20;

    private readonly Process _process;
    private readonly Queue<string> _lastLines = new();
    private readonly string _role;

    private ChildProcess(Process process, string role, Action<string> onLine)
    {
        _process = process;
        _role = role;
        void Keep(object sender, DataReceivedEventArgs line)
        {
            if (line.Data is null)
                return;
            lock (_lastLines)
            {
                _lastLines.Enqueue(line.Data);
                if (_lastLines.Count > KeptLines)
                    _lastLines.Dequeue();
            }

            onLine($"{role}: {line.Data}");
        }

        process.OutputDataReceived += Keep;
        process.ErrorDataReceived += Keep;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    public bool HasEnded => _process.HasExited;

    public static ChildProcess Start(string role, IReadOnlyList<string> arguments, string runtimeFolder, Action<string> onLine)
    {
        string program = Environment.ProcessPath ?? throw new CommandFailure("This program's own path is not known, so it can not start another of itself.");
        var start = new ProcessStartInfo(program)
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false,
        };
        if (Path.GetFileNameWithoutExtension(program) == "dotnet")
        {
            start.ArgumentList.Add("exec");
            start.ArgumentList.Add(Path.Combine(AppContext.BaseDirectory, "tidemark.dll"));
        }

        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        start.Environment["TIDEMARK_RUNTIME_DIR"] = runtimeFolder;
        start.Environment["NO_COLOR"] = "1";
        Process process = Process.Start(start) ?? throw new CommandFailure($"The {role} could not be started.");
        return new ChildProcess(process, role, onLine);
    }

    /// <summary>What a process that ended too early had to say.</summary>
    public CommandFailure Failure()
    {
        _process.WaitForExit(1000);
        string said;
        lock (_lastLines)
            said = string.Join("\n", _lastLines.Select(line => $"  {line}"));
        string ended = _process.HasExited ? $"ended with code {_process.ExitCode}" : "does not answer";
        return new CommandFailure($"The {_role} {ended}.{(said.Length > 0 ? $" It said:\n{said}" : "")}");
    }

    public void Dispose()
    {
        try
        {
            _process.StandardInput.Close();
        }
        catch (IOException)
        {
            // Its end of the pipe is gone already.
        }

        if (!_process.WaitForExit(3000))
            _process.Kill(entireProcessTree: true);
        _process.Dispose();
    }
}
