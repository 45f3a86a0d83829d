namespace Tidemark.Cli.Hosting;

/// <summary>The file of --trace: one line for each call to the kernel, in strace's spelling.</summary>
internal sealed class TraceFile : IDisposable
{
    private readonly Lock _gate = new();
    private StreamWriter? _writer;

    private TraceFile(StreamWriter writer) => _writer = writer;

    /// <exception cref="CommandFailure">The file can not be written.</exception>
    public static TraceFile Create(string path)
    {
        try
        {
            return new TraceFile(new StreamWriter(path));
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // The user asked for a trace and would not get one.
            throw new CommandFailure($"The trace file {path} can not be written: {failure.Message}", ExitCode.Usage);
        }
    }

    public void Write(string line)
    {
        lock (_gate)
        {
            try
            {
                _writer?.WriteLine(line);
            }
            catch (IOException)
            {
                // A full disk must not end a machine: the trace ends here.
                _writer = null;
            }
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            try
            {
                _writer?.Dispose();
            }
            catch (IOException)
            {
                // As above: what could be written has been.
            }

            _writer = null;
        }
    }
}
