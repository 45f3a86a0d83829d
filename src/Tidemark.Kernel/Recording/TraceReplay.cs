namespace Tidemark.Kernel.Recording;

/// <summary>
/// Makes the calls of a recording on another kernel and compares every answer: result, errno, bytes that came back, and
/// memory that the kernel wrote.
/// </summary>
/// <remarks>
/// <code>
///   recorded step          here
///   stored ADDRESS BYTES   stored at the address that this process has instead; words that are addresses are moved
///   call                   the same call with descriptors, addresses and nodes of this process
///   = VALUE ERRNO          equal; a new descriptor or region is remembered under its recorded name
///   out=BYTES              equal, but for what is a descriptor or an address
///   wrote ADDRESS BYTES    the memory that changed here is exactly that
/// </code>
/// A region lies here as far from a border of 2 MiB as it did there: where leaves can be large and which IOVAs are
/// chosen depends on it. Opens device nodes and nothing else; on a real kernel it does to the named devices what the
/// recorded program did, so replay there only what you trust.
/// </remarks>
public sealed class TraceReplay
{
    private readonly IKernel _kernel;
    private readonly CallRecording _recording;
    private readonly IReadOnlyList<RecordedDevice> _devices;

    /// <param name="devices">The devices here, in the order of the recording's.</param>
    public TraceReplay(IKernel kernel, CallRecording recording, IReadOnlyList<RecordedDevice> devices)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(recording);
        ArgumentNullException.ThrowIfNull(devices);
        _kernel = kernel;
        _recording = recording;
        _devices = devices;
    }

    /// <summary>Replays one case and gives back all that it opened and mapped.</summary>
    /// <returns>The first difference, or null.</returns>
    /// <exception cref="FormatException">The recording does something that none may: opens another file, blocks for
    /// ever, or gives back memory that is not its own.</exception>
    public ReplayMismatch? Play(RecordedCase recorded)
    {
        ArgumentNullException.ThrowIfNull(recorded);
        var run = new ReplayRun(_kernel, new ReplayNames(_recording.Devices, _devices));
        try
        {
            for (int index = 0; index < recorded.Steps.Count; index++)
            {
                RecordedStep step = recorded.Steps[index];
                string recordedText = run.Describe(step.Call);
                if (run.Play(step) is string answered)
                    return new ReplayMismatch(recorded.Name, index + 1, recordedText, answered);
            }

            return null;
        }
        finally
        {
            run.CleanUp();
        }
    }
}
