using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Conformance;

/// <summary>
/// A device's migration states as a case walks them, and what the header's table of arcs says must come of a request.
/// </summary>
internal static class MigrationSession
{
    /// <summary>LIMIT: state longer than this is not carried; such a case is not applicable.</summary>
    private const int MostBytes = 256 << 20;

    /// <summary>The states a request can name, in the order of their numbers.</summary>
    public static IReadOnlyList<VfioDeviceMigState> States { get; } =
        [Error, Stop, Running, StopCopy, Resuming, RunningP2P, PreCopy, PreCopyP2P];

    /// <summary>Whether a device of these abilities has a state.</summary>
    public static bool Has(VfioMigrationFlags flags, VfioDeviceMigState state) => state switch
    {
        Error => false,
        RunningP2P => flags.HasFlag(VfioMigrationFlags.P2P),
        PreCopy => flags.HasFlag(VfioMigrationFlags.PreCopy),
        PreCopyP2P => flags.HasFlag(VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy),
        _ => true,
    };

    /// <summary>
    /// The states that a request passes, the target last; empty when it is there already, null when there is no way.
    /// </summary>
    /// <remarks>
    /// vfio.h draws the arcs; a request that is no arc takes the shortest way over them, by these rules: out of any
    /// stopped state through STOP, into and out of running through RUNNING_P2P where there is one, never from STOP_COPY
    /// to PRE_COPY, never through a state that carries data unless it is the target.
    /// </remarks>
    public static IReadOnlyList<VfioDeviceMigState>? Path(
        VfioMigrationFlags flags, VfioDeviceMigState from, VfioDeviceMigState to)
    {
        if (!Has(flags, to))
            return null;
        var path = new List<VfioDeviceMigState>();
        for (VfioDeviceMigState at = from; at != to;)
        {
            if (Next(flags, at, to) is not VfioDeviceMigState next)
                return null;
            path.Add(next);
            at = next;
        }

        return path;
    }

    /// <summary>Whether an arc opens a data stream.</summary>
    public static bool Opens(VfioDeviceMigState from, VfioDeviceMigState to) =>
        (from, to) is (Running, PreCopy) or (RunningP2P, PreCopyP2P) or (Stop, StopCopy) or (Stop, Resuming);

    public static VfioDeviceMigState StateOf(CaseRun run)
    {
        var state = default(VfioDeviceFeatureMigState);
        run.Answers(
            run.Kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Get, ref state).Errno, Errno.Success,
            "GET of MIG_DEVICE_STATE");
        return state.DeviceState;
    }

    /// <summary>Asks for a state. A stream that comes back is the case's to close.</summary>
    public static Errno Request(CaseRun run, VfioDeviceMigState target, out KernelFd? stream)
    {
        stream = null;
        var state = new VfioDeviceFeatureMigState { DeviceState = target, DataFd = 12345 };
        Errno errno = run.Kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Set, ref state).Errno;
        if (errno == Errno.Success && state.DataFd >= 0)
            stream = run.Own(new KernelFd(run.Kernel, state.DataFd));
        else
            run.Equal(-1, state.DataFd, "data_fd");
        return errno;
    }

    public static KernelFd? Enter(CaseRun run, VfioDeviceMigState target)
    {
        run.Answers(Request(run, target, out KernelFd? stream), Errno.Success, $"asking for {target}");
        return stream;
    }

    /// <summary>
    /// Brings a running device to a state over arcs that exist. On the way to RESUMING the device's own state is saved
    /// and written back, so that it can leave again.
    /// </summary>
    public static KernelFd? Reach(CaseRun run, VfioDeviceMigState target)
    {
        if (target != Resuming)
            return Enter(run, target);
        byte[] state = Save(run, Enter(run, StopCopy)!);
        KernelFd stream = Enter(run, Resuming)
            ?? throw CaseRun.Broken("Expected a data stream from entering RESUMING; there was none.");
        Load(run, stream, state);
        return stream;
    }

    /// <summary>Reads a stream to its end.</summary>
    public static byte[] Save(CaseRun run, KernelFd stream)
    {
        using var state = new MemoryStream();
        byte[] buffer = new byte[64 << 10];
        while (true)
        {
            SyscallResult read = run.Kernel.Read(stream.Number, buffer);
            run.Answers(read.Errno, Errno.Success, "reading device state");
            if (read.Value == 0)
                return state.ToArray();
            if (state.Length > MostBytes)
                throw CaseRun.NotApplicable($"The device's state is longer than {MostBytes} bytes.");
            state.Write(buffer, 0, (int)read.Value);
        }
    }

    public static void Load(CaseRun run, KernelFd stream, ReadOnlySpan<byte> state)
    {
        while (!state.IsEmpty)
        {
            SyscallResult written = run.Kernel.Write(stream.Number, state);
            run.Answers(written.Errno, Errno.Success, "writing device state");
            run.Holds(written.Value > 0, "some bytes to be written");
            state = state[(int)written.Value..];
        }
    }

    private static VfioDeviceMigState? Next(VfioMigrationFlags flags, VfioDeviceMigState at, VfioDeviceMigState to)
    {
        bool peer = Has(flags, RunningP2P);
        bool both = Has(flags, PreCopyP2P);
        bool copying = to is PreCopy or PreCopyP2P;
        return at switch
        {
            Stop when to is StopCopy or Resuming => to,
            Stop => peer ? RunningP2P : Running,
            StopCopy when copying => null,
            StopCopy or Resuming => Stop,
            Running when to == PreCopy => PreCopy,
            Running => peer ? RunningP2P : Stop,
            RunningP2P when to == PreCopyP2P => PreCopyP2P,
            RunningP2P => to is Running or PreCopy ? Running : Stop,
            PreCopy when to is StopCopy or PreCopyP2P => both ? PreCopyP2P : StopCopy,
            PreCopy => Running,
            PreCopyP2P when to is StopCopy or PreCopy => to,
            PreCopyP2P => RunningP2P,
            _ => null,
        };
    }
}
