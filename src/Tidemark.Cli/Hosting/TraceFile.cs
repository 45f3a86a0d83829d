using System.Diagnostics.Tracing;
using Tidemark.Kernel;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// The file of --trace: one line for each call to the kernel, in strace's spelling, and after the calls of a step one that
/// begins with <c>#</c> and says what was done.
/// </summary>
internal sealed class TraceFile : IDisposable
{
    private readonly Lock _gate = new();
    private StreamWriter? _writer;

    private readonly StepLines _steps;

    private TraceFile(StreamWriter writer)
    {
        _writer = writer;
        _steps = new StepLines(this);
    }

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
        _steps.Dispose();
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

    private sealed class StepLines(TraceFile file) : EventListener
    {
        // Set before the constructor of the class above calls back.
        private readonly TraceFile _file = file;

        protected override void OnEventSourceCreated(EventSource eventSource)
        {
            if (eventSource.Name == StepEvents.SourceName)
                EnableEvents(eventSource, EventLevel.Verbose);
        }

        protected override void OnEventWritten(EventWrittenEventArgs eventData) =>
            _file.Write($"# {StepEvents.Describe(eventData)}");
    }
}
