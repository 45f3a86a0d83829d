using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Description;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>
/// The connection over which a machine goes from one process of a host to another.
/// <code>
/// the process that has it                         the process that goes on
///   workload stands still, devices work
///   head + descriptors (SCM_RIGHTS), manifest --&gt;
///                                                 adopts all of it, IOMMU_IOAS_CHANGE_PROCESS
///                                      &lt;-- taken      (or: refused, and why)
///   relinquishes everything
///   yours --&gt;
///                                                 workload goes on
/// </code>
/// Exactly one goes on: the one that has it until it has read "taken", the other one after it has read "yours". Whatever
/// happens before "taken" leaves the machine where it was.
/// </summary>
public static class LiveUpdateLink
{
    private const uint Magic = 0x554C_4D54; // "TMLU"
    private const uint Version = 1;
    private const int HeadLength = 24;
    private const byte Taken = (byte)'T';
    private const byte Refused = (byte)'F';
    private const byte Yours = (byte)'Y';

    /// <summary>LIMIT: the workload's state has at most 16 MiB, and mappings are smaller.</summary>
    private const int MaximumManifestBytes = 64 << 20;

    /// <summary>LIMIT: what one message can carry is 253.</summary>
    private const int MaximumDescriptors = 253;

    /// <summary>LIMIT: how long a side waits for the other one, which may be on a busy or emulated processor; then the
    /// machine stays where it is.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>Hands a running machine over. Afterwards it may only be disposed of.</summary>
    /// <param name="socket">A connected Unix socket.</param>
    /// <exception cref="KernelException">It can not be handed over, or the other side can not take it; the machine runs on
    /// here.</exception>
    public static void HandOver(GuestMachine machine, IKernel kernel, Socket socket)
    {
        ArgumentNullException.ThrowIfNull(machine);
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(socket);
        if (machine.FindAdoptionObstacle() is { } obstacle)
            throw new KernelException("Handing the machine to another process", Errno.EOPNOTSUPP, obstacle);
        SetPatience(socket);
        long stopped = Stopwatch.GetTimestamp();
        machine.StopWorkload();
        try
        {
            Send(machine.Bequeath(), kernel, socket, stopped);
            AwaitTaken(socket);
        }
        catch (Exception failure) when (failure is SocketException or KernelException or InvalidDataException)
        {
            // The other process has nothing to go on with: what is charged to it comes back, and the machine runs on.
            TakeBack(machine);
            machine.ResumeWorkload();
            throw failure as KernelException
                ?? new KernelException("Handing the machine to another process", Errno.EPIPE, $"{failure.Message} The machine runs on here.");
        }
        catch
        {
            // A defect of ours, before anything was given away.
            machine.ResumeWorkload();
            throw;
        }

        machine.Relinquish();
        try
        {
            socket.Send([Yours]);
        }
        catch (SocketException)
        {
            // The other process has said that it has everything and is gone. Here nothing may run any more all the same: it
            // may have read this byte.
        }
    }

    /// <summary>Takes a machine over; it runs here when this returns.</summary>
    /// <param name="socket">A connected Unix socket.</param>
    /// <param name="stoodStill">How long the workload stood still.</param>
    /// <exception cref="KernelException">A step was refused; the machine runs on where it was.</exception>
    /// <exception cref="InvalidDataException">It is another machine than the file's; it runs on where it was.</exception>
    /// <exception cref="IOException">The other process went away.</exception>
    public static GuestMachine TakeOver(
        MachineDescription description, IKernel kernel, ISysfs sysfs, Socket socket, out TimeSpan stoodStill)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(socket);
        SetPatience(socket);
        MachineInheritance inheritance = Receive(kernel, socket, out long stopped);
        GuestMachine machine;
        try
        {
            machine = GuestMachine.Adopt(description, kernel, sysfs, inheritance);
        }
        catch (Exception failure)
        {
            // The other process is told why, and its machine runs on.
            inheritance.Dispose();
            TryRefuse(socket, failure.Message);
            throw;
        }

        try
        {
            try
            {
                machine.TakeCharge();
            }
            catch (KernelException failure)
            {
                // As above.
                TryRefuse(socket, failure.Message);
                throw;
            }

            socket.Send([Taken]);
            Span<byte> answer = stackalloc byte[1];
            if (socket.Receive(answer) != 1 || answer[0] != Yours)
                throw new IOException("The process that had the machine went away before it let go: whether its devices still belong to somebody is unknown.");
            machine.GoOn();
            stoodStill = Stopwatch.GetElapsedTime(stopped);
            return machine;
        }
        catch (SocketException failure)
        {
            // The machine is still the other process's.
            machine.Relinquish();
            machine.Dispose();
            throw new IOException($"The process that had the machine does not answer: {failure.Message}", failure);
        }
        catch
        {
            // The same.
            machine.Relinquish();
            machine.Dispose();
            throw;
        }
    }

    private static void Send(MachineInheritance inheritance, IKernel kernel, Socket socket, long stopped)
    {
        var head = new byte[HeadLength];
        BinaryPrimitives.WriteUInt32LittleEndian(head, Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(head.AsSpan(4), Version);
        BinaryPrimitives.WriteUInt64LittleEndian(head.AsSpan(8), (ulong)inheritance.Manifest.Length);
        BinaryPrimitives.WriteInt64LittleEndian(head.AsSpan(16), stopped);
        SyscallResult sent = kernel.SendRights(
            NumberOf(socket), head, [.. inheritance.Descriptors.Select(descriptor => descriptor.Number)]);
        if (!sent.Succeeded)
        {
            throw new KernelException("Sending the machine's descriptors to another process", sent.Errno, sent.Errno == Errno.EOPNOTSUPP
                ? "The soft kernel and its devices live in this process; only a real kernel's go from one to another."
                : null);
        }

        // The kernel takes a head that short whole, or not at all.
        ReadOnlySpan<byte> rest = inheritance.Manifest.Span;
        while (!rest.IsEmpty)
            rest = rest[socket.Send(rest)..];
    }

    private static MachineInheritance Receive(IKernel kernel, Socket socket, out long stopped)
    {
        var head = new byte[HeadLength];
        var numbers = new int[MaximumDescriptors];
        SyscallResult received = kernel.ReceiveRights(NumberOf(socket), head, numbers);
        received.ThrowIfFailed("Receiving a machine's descriptors from another process");
        KernelFd[] descriptors = [.. numbers.Where(number => number >= 0).Select(number => new KernelFd(kernel, number))];
        try
        {
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(head.AsSpan(8));
            stopped = BinaryPrimitives.ReadInt64LittleEndian(head.AsSpan(16));
            if (received.Value == 0)
                throw new IOException("The process that has the machine did not hand it over; `tidemark status` asks it.");
            if (received.Value != HeadLength || BinaryPrimitives.ReadUInt32LittleEndian(head) != Magic
                || BinaryPrimitives.ReadUInt32LittleEndian(head.AsSpan(4)) != Version || length > MaximumManifestBytes)
            {
                throw new InvalidDataException("The other process does not speak this version of the live update.");
            }

            var manifest = new byte[length];
            for (int filled = 0; filled < manifest.Length;)
            {
                int count = socket.Receive(manifest.AsSpan(filled));
                filled += count > 0 ? count : throw new IOException("The process that has the machine ended in the middle of the hand-over.");
            }

            return MachineInheritance.Of(descriptors, manifest);
        }
        catch
        {
            Array.ForEach(descriptors, descriptor => descriptor.Dispose());
            throw;
        }
    }

    private static void AwaitTaken(Socket socket)
    {
        var answer = new byte[4096];
        int length = socket.Receive(answer);
        if (length == 1 && answer[0] == Taken)
            return;
        string reason = length > 1 && answer[0] == Refused
            ? System.Text.Encoding.UTF8.GetString(answer, 1, length - 1)
            : "The other process went away.";
        throw new KernelException("Handing the machine to another process", Errno.EPIPE, $"{reason} The machine runs on here.");
    }

    private static void TryRefuse(Socket socket, string reason)
    {
        try
        {
            byte[] text = System.Text.Encoding.UTF8.GetBytes(reason);
            socket.Send([Refused, .. text.AsSpan(0, Math.Min(text.Length, 4000))]);
        }
        catch (SocketException)
        {
            // It went away, or will see that we do.
        }
    }

    private static void TakeBack(GuestMachine machine)
    {
        try
        {
            machine.TakeCharge();
        }
        catch (KernelException)
        {
            // The pages stay charged to a process that is about to end; they stay pinned, and devices write on.
        }
    }

    private static void SetPatience(Socket socket)
    {
        socket.ReceiveTimeout = (int)Patience.TotalMilliseconds;
        socket.SendTimeout = (int)Patience.TotalMilliseconds;
    }

    private static int NumberOf(Socket socket) => (int)socket.Handle;
}
