using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Description;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>
/// The connection over which a machine goes from one process of a host to another.
/// <code>
/// the process that has it (giver)                  the process that goes on (taker)
///   workload stands still, devices work
///   offer: head + descriptors (SCM_RIGHTS) --&gt;
///     manifest (a memfd), memory, iommufd, devices   adopts all of it; IOMMU_IOAS_CHANGE_PROCESS, interrupts
///                                        &lt;-- runs       (or: refused, and why)
///   relinquishes everything, ends                    workload goes on
///
///   in between, if the taker refuses, ends, or is silent for too long, or this one is to stop:
///   back --&gt;  door shut, inbox looked through
///   IOMMU_IOAS_CHANGE_PROCESS, interrupts; workload goes on here
/// </code>
/// Exactly one goes on; who, and why never both, is drawn at <see cref="GiverHandover"/>. Each message but the offer is a few
/// bytes, and the offer is one message, so the socket never is too full for "back".
/// </summary>
public static class LiveUpdateLink
{
    internal const uint Magic = 0x554C_4D54; // "TMLU"
    internal const uint Version = 2;
    internal const int HeadLength = 24;
    internal const byte Runs = (byte)'R';
    internal const byte Refused = (byte)'F';
    internal const byte Back = (byte)'B';

    /// <summary>LIMIT: the workload's state has at most 16 MiB, and mappings are smaller.</summary>
    internal const int MaximumManifestBytes = 64 << 20;

    /// <summary>LIMIT: what one message can carry is 253.</summary>
    internal const int MaximumDescriptors = 253;

    /// <summary>LIMIT: how long a side waits for the other one, which may be on a busy or emulated processor; then the
    /// machine stays where it is.</summary>
    internal static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>Hands a running machine over. Afterwards it may only be disposed of.</summary>
    /// <param name="socket">A connected Unix stream socket. To be closed after this returns or throws, not before.</param>
    /// <param name="cancellation">Calls the machine back, unless it runs at the other side already.</param>
    /// <exception cref="KernelException">It can not be handed over, or the other side did not take it; the machine runs on
    /// here.</exception>
    public static void HandOver(
        GuestMachine machine, IKernel kernel, Socket socket, Action<LiveUpdateStep>? onStep = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(machine);
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(socket);
        if (machine.FindAdoptionObstacle() is { } obstacle)
            throw new KernelException(UpdateGiver.Operation, Errno.EOPNOTSUPP, obstacle);
        SetPatience(socket);
        new UpdateGiver(machine, kernel, socket, onStep).Run(cancellation);
    }

    /// <summary>Takes a machine over; it runs here when this returns.</summary>
    /// <param name="socket">A connected Unix stream socket.</param>
    /// <param name="stoodStill">How long the workload stood still.</param>
    /// <exception cref="KernelException">A step was refused; the machine runs on where it was.</exception>
    /// <exception cref="InvalidDataException">It is another machine than the file's; it runs on where it was.</exception>
    /// <exception cref="IOException">The other process called the machine back, or ended before it had offered it.</exception>
    public static GuestMachine TakeOver(
        MachineDescription description, IKernel kernel, ISysfs sysfs, Socket socket, out TimeSpan stoodStill,
        Action<LiveUpdateStep>? onStep = null)
    {
        ArgumentNullException.ThrowIfNull(description);
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(socket);
        SetPatience(socket);
        return new UpdateTaker(kernel, socket, onStep).Run(description, sysfs, out stoodStill);
    }

    /// <summary>Sends a few bytes.</summary>
    internal static SocketError Say(Socket socket, ReadOnlySpan<byte> bytes)
    {
        socket.Send(bytes, SocketFlags.None, out SocketError error);
        return error;
    }

    /// <summary>Whether an error of a socket says that the other end is closed, or takes nothing any more.</summary>
    internal static bool IsShut(SocketError error) =>
        error is SocketError.Shutdown or SocketError.ConnectionReset or SocketError.ConnectionAborted or SocketError.NotConnected;

    private static void SetPatience(Socket socket)
    {
        socket.ReceiveTimeout = (int)Patience.TotalMilliseconds;
        socket.SendTimeout = (int)Patience.TotalMilliseconds;
    }
}
