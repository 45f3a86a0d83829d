using System.Diagnostics;
using System.Globalization;

namespace Tidemark.Cli.Output;

/// <summary>
/// The only writer to the user's terminal: results to standard output, everything else to standard error. Knows about
/// colour (off when not a terminal or NO_COLOR is set), --quiet, --verbose and --log.
/// </summary>
internal sealed class Terminal : IDisposable
{
    private readonly Lock _gate = new();
    private readonly long _began = Stopwatch.GetTimestamp();
    private readonly bool _liveProgress;
    private StreamWriter? _log;
    private string _progress = "";
    private bool _resultIsLost;

    public Terminal()
    {
        bool colourWanted = string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"))
            && Environment.GetEnvironmentVariable("TERM") != "dumb";
        _liveProgress = !Console.IsErrorRedirected;
        UsesColour = colourWanted && !Console.IsOutputRedirected;
        UsesColourForNotes = colourWanted && !Console.IsErrorRedirected;
    }

    public bool Quiet { get; set; }

    public bool Verbose { get; set; }

    /// <summary>Whether a note goes anywhere: to the user, or to a log.</summary>
    public bool ShowsNotes => !Quiet || _log is not null;

    /// <summary>Whether a detail does.</summary>
    public bool ShowsDetails => (Verbose && !Quiet) || _log is not null;

    public bool UsesColour { get; }

    private bool UsesColourForNotes { get; }

    /// <exception cref="CommandFailure">The file can not be written.</exception>
    public void LogTo(string path)
    {
        try
        {
            _log = new StreamWriter(path, append: true) { AutoFlush = true };
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // No log is written; the user asked for one, so this is the end.
            throw new CommandFailure($"The log file {path} can not be written: {failure.Message}", ExitCode.Usage);
        }
    }

    /// <summary>A line of the command's result.</summary>
    public void Result(string line)
    {
        lock (_gate)
        {
            EraseProgress();
            Write(Console.Out, line);
        }
    }

    /// <summary>Something worth knowing while the command works. Not with --quiet.</summary>
    public void Note(string line)
    {
        Log("note", line);
        if (Quiet)
            return;
        lock (_gate)
        {
            EraseProgress();
            Write(Console.Error, line);
        }
    }

    /// <summary>Detail that only --verbose shows.</summary>
    public void Detail(string line)
    {
        Log("detail", line);
        if (!Verbose || Quiet)
            return;
        lock (_gate)
        {
            EraseProgress();
            Write(Console.Error, UsesColourForNotes ? $"\u001b[2m{line}\u001b[0m" : line);
        }
    }

    /// <summary>Why the command failed.</summary>
    public void Error(string line)
    {
        Log("error", line);
        lock (_gate)
        {
            EraseProgress();
            Write(Console.Error, UsesColourForNotes ? $"\u001b[31mtidemark:\u001b[0m {line}" : $"tidemark: {line}");
        }
    }

    /// <summary>A line that replaces itself; only on a terminal.</summary>
    public void Progress(string line)
    {
        if (Quiet || !_liveProgress)
            return;
        lock (_gate)
        {
            int width = WindowWidth();
            string fitted = line.Length < width ? line : line[..(width - 1)];
            Console.Error.Write("\r" + fitted.PadRight(_progress.Length));
            _progress = fitted;
        }
    }

    public void EndProgress()
    {
        lock (_gate)
            EraseProgress();
    }

    public string Bold(string text) => UsesColour ? $"\u001b[1m{text}\u001b[0m" : text;

    public string Good(string text) => UsesColour ? $"\u001b[32m{text}\u001b[0m" : text;

    public string Bad(string text) => UsesColour ? $"\u001b[31m{text}\u001b[0m" : text;

    public void Dispose() => _log?.Dispose();

    private void Write(TextWriter writer, string line)
    {
        try
        {
            writer.WriteLine(line);
        }
        catch (IOException failure)
        {
            // A reader that has gone (a closed pipe) wants no more. A full disk is told, once, and changes nothing about
            // how the command ended: a machine that moved must not look like one that did not.
            const int BrokenPipe = 32;
            if (writer != Console.Out || failure.HResult == BrokenPipe || _resultIsLost)
                return;
            _resultIsLost = true;
            Write(Console.Error, $"tidemark: The result could not be written: {failure.Message}");
        }
    }

    private static int WindowWidth()
    {
        try
        {
            return Math.Max(20, Console.WindowWidth);
        }
        catch (IOException)
        {
            // Not a real terminal after all.
            return 80;
        }
    }

    private void EraseProgress()
    {
        if (_progress.Length == 0)
            return;
        Console.Error.Write("\r" + new string(' ', _progress.Length) + "\r");
        _progress = "";
    }

    private void Log(string level, string line)
    {
        lock (_gate)
        {
            try
            {
                _log?.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"{Stopwatch.GetElapsedTime(_began).TotalSeconds,9:0.000} {level} {line}"));
            }
            catch (IOException failure)
            {
                // A full disk must not end a migration: logging stops, and the user is told once.
                _log = null;
                Write(Console.Error, $"tidemark: logging stopped: {failure.Message}");
            }
        }
    }
}
