using System.Diagnostics;
using System.Text;

namespace Tidemark.Cli.Tests;

/// <summary>One tidemark process. Killed when disposed, so that a failed test leaves nothing behind.</summary>
internal sealed class CommandLine : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(40);

    private readonly Process _process;
    private readonly StringBuilder _output = new();
    private readonly StringBuilder _error = new();

    public CommandLine(string runtimeFolder, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet")
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = runtimeFolder,
        };
        start.ArgumentList.Add("exec");
        start.ArgumentList.Add(Program);
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        start.Environment["TIDEMARK_RUNTIME_DIR"] = runtimeFolder;
        start.Environment["TMPDIR"] = runtimeFolder;
        _process = Process.Start(start)!;
        _process.OutputDataReceived += (_, line) => Append(_output, line.Data);
        _process.ErrorDataReceived += (_, line) => Append(_error, line.Data);
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    public static string Root { get; } = FindRoot();

    public int Id => _process.Id;

    public string Output => Read(_output);

    public string Error => Read(_error);

    public string All => $"exit code {(_process.HasExited ? _process.ExitCode : "(runs)")}\n{Output}\n{Error}";

    /// <summary>What ./tidemark starts, in this test program's configuration.</summary>
    private static string Program { get; } = Path.Combine(
        Root, "artifacts", "tidemark", Path.GetFileName(AppContext.BaseDirectory.TrimEnd('/')), "tidemark.dll");

    /// <summary>Waits for the end and returns the exit code.</summary>
    public int WaitForEnd()
    {
        Assert.True(_process.WaitForExit(Limit), $"It does not end: {All}");
        _process.WaitForExit();
        Assert.DoesNotContain("   at Tidemark.", All, StringComparison.Ordinal);
        Assert.DoesNotContain("should not happen", All, StringComparison.Ordinal);
        return _process.ExitCode;
    }

    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit(Limit);
    }

    public void Terminate()
    {
        using Process kill = Process.Start("kill", ["-TERM", $"{Id}"]);
        kill.WaitForExit(Limit);
    }

    public void Dispose()
    {
        if (!_process.HasExited)
            _process.Kill(entireProcessTree: true);
        _process.Dispose();
    }

    private static void Append(StringBuilder text, string? line)
    {
        if (line is null)
            return;
        lock (text)
            text.Append(line).Append('\n');
    }

    private static string Read(StringBuilder text)
    {
        lock (text)
            return text.ToString();
    }

    private static string FindRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Tidemark.slnx")))
            folder = Path.GetDirectoryName(folder);
        return folder ?? throw new InvalidOperationException("The tests do not lie in the repository.");
    }
}
