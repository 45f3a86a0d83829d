using Tidemark.Abi;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// Which arcs lead from one migration state to another: VFIO's core knows it for every driver (UAPI:
/// vfio_mig_get_next_state).
/// </summary>
internal static class MigrationArcs
{
    private const VfioMigrationFlags Basic = VfioMigrationFlags.StopCopy;

    /// <summary>
    /// The first arc from a state (row) towards a requested one (column), as if every ability were there. Error: none.
    /// </summary>
    private static readonly VfioDeviceMigState[][] NextHop =
    [
        // requested: Error, Stop, Running, StopCopy, Resuming, RunningP2P, PreCopy, PreCopyP2P
        /* Error      */ [Error, Error, Error, Error, Error, Error, Error, Error],
        /* Stop       */ [Error, Stop, RunningP2P, StopCopy, Resuming, RunningP2P, RunningP2P, RunningP2P],
        /* Running    */ [Error, RunningP2P, Running, RunningP2P, RunningP2P, RunningP2P, PreCopy, RunningP2P],
        /* StopCopy   */ [Error, Stop, Stop, StopCopy, Stop, Stop, Error, Error],
        /* Resuming   */ [Error, Stop, Stop, Stop, Resuming, Stop, Stop, Stop],
        /* RunningP2P */ [Error, Stop, Running, Stop, Stop, RunningP2P, Running, PreCopyP2P],
        /* PreCopy    */ [Error, Running, Running, PreCopyP2P, Running, Running, PreCopy, PreCopyP2P],
        /* PreCopyP2P */ [Error, RunningP2P, RunningP2P, StopCopy, RunningP2P, RunningP2P, PreCopy, PreCopyP2P],
    ];

    /// <summary>Whether a request may name the state: it is one that the device has, and not Error.</summary>
    public static bool IsReachable(VfioDeviceMigState state, VfioMigrationFlags flags) =>
        state != Error && IsSupported(state, flags);

    /// <summary>The state after <paramref name="from"/> on the way to another one; Error: there is no way.</summary>
    public static VfioDeviceMigState Next(
        VfioDeviceMigState from, VfioDeviceMigState target, VfioMigrationFlags flags)
    {
        VfioDeviceMigState next = NextHop[(int)from][(int)target];
        while (next != Error && !IsSupported(next, flags))
            next = NextHop[(int)next][(int)target];
        return next;
    }

    private static VfioMigrationFlags Needed(VfioDeviceMigState state) => state switch
    {
        RunningP2P => Basic | VfioMigrationFlags.P2P,
        PreCopy => Basic | VfioMigrationFlags.PreCopy,
        PreCopyP2P => Basic | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy,
        _ => Basic,
    };

    private static bool IsSupported(VfioDeviceMigState state, VfioMigrationFlags flags) =>
        (uint)state < (uint)NextHop.Length && (flags & Needed(state)) == Needed(state);
}
