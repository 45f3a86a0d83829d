using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>Gives a machine away over a socket, or keeps it; once. What it may do when is <see cref="GiverHandover"/>'s.</summary>
internal sealed class UpdateGiver(GuestMachine machine, IKernel kernel, Socket socket, Action<LiveUpdateStep>? onStep)
{
    public const string Operation = "Handing the machine to another process";

    private static readonly TimeSpan s_slice = TimeSpan.FromMilliseconds(20);

    /// <summary>LIMIT: a process that was told "back" ends within this time; one that is stopped may change the accounting
    /// and the interrupts once more when it is woken later.</summary>
    private static readonly TimeSpan s_endLimit = TimeSpan.FromSeconds(10);

    private GiverHandover _stand = new(GiverStand.Runs);

    /// <exception cref="KernelException">The machine runs on here, and why.</exception>
    public void Run(CancellationToken cancellation)
    {
        string? reason;
        Exception? failure = null;
        try
        {
            long stopped = Stopwatch.GetTimestamp();
            machine.StopWorkload();
            byte[] head = new byte[LiveUpdateLink.HeadLength];
            MachineInheritance inheritance = machine.Bequeath();
            using KernelFd manifest = WriteManifest(inheritance.Manifest.Span);
            BinaryPrimitives.WriteUInt32LittleEndian(head, LiveUpdateLink.Magic);
            BinaryPrimitives.WriteUInt32LittleEndian(head.AsSpan(4), LiveUpdateLink.Version);
            BinaryPrimitives.WriteUInt64LittleEndian(head.AsSpan(8), (ulong)inheritance.Manifest.Length);
            BinaryPrimitives.WriteInt64LittleEndian(head.AsSpan(16), stopped);
            Send(head, [manifest.Number, .. inheritance.Descriptors.Select(descriptor => descriptor.Number)]);
            _stand = _stand.Offer();
            onStep?.Invoke(LiveUpdateStep.Offered);
            reason = AwaitRuns(cancellation);
            if (_stand.Stand == GiverStand.Gone)
            {
                machine.Relinquish();
                return;
            }
        }
        catch (Exception caught)
        {
            // Whatever it was: who has it is decided below, and then the caller is told.
            failure = caught;
            reason = caught.Message;
        }

        string? lack = null;
        if (_stand.Stand == GiverStand.Runs)
        {
            // Nobody else ever had it.
            machine.ResumeWorkload();
        }
        else if (!CallBack())
        {
            machine.Relinquish();
            return;
        }
        else
        {
            lack = TakeBack(cancellation);
        }

        if (failure is not null and not SocketException and not KernelException)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
        KernelException? refusal = failure as KernelException;
        throw new KernelException(
            refusal?.Operation ?? Operation, refusal?.Errno ?? Errno.EPIPE,
            $"{(refusal is null ? reason : refusal.Remedy)} The machine runs on here.{(lack is null ? "" : $" {lack}")}".TrimStart());
    }

    private void Send(ReadOnlySpan<byte> head, int[] descriptors)
    {
        // The kernel takes a message that short whole, or not at all.
        SyscallResult sent = kernel.SendRights((int)socket.Handle, head, descriptors);
        if (!sent.Succeeded)
        {
            throw new KernelException("Sending the machine's descriptors to another process", sent.Errno, sent.Errno == Errno.EOPNOTSUPP
                ? "The soft kernel and its devices live in this process; only a real kernel's go from one to another."
                : null);
        }
    }

    private KernelFd WriteManifest(ReadOnlySpan<byte> manifest)
    {
        SyscallResult made = kernel.MemfdCreate("tidemark-manifest", MemfdFlags.CloseOnExec);
        made.ThrowIfFailed("Making a file for what the other process must know of the machine");
        var file = new KernelFd(kernel, (int)made.Value);
        try
        {
            for (int written = 0; written < manifest.Length;)
            {
                SyscallResult result = kernel.Pwrite(file.Number, manifest[written..], (ulong)written);
                result.ThrowIfFailed("Writing what the other process must know of the machine");
                written += (int)result.Value;
            }

            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Waits until the taker runs the machine; else returns why it does not.</summary>
    private string? AwaitRuns(CancellationToken cancellation)
    {
        long began = Stopwatch.GetTimestamp();
        while (!socket.Poll(s_slice, SelectMode.SelectRead))
        {
            if (cancellation.IsCancellationRequested)
                return "This process is to end, or to keep it.";
            if (Stopwatch.GetElapsedTime(began) > LiveUpdateLink.Patience)
                return $"The other process has said nothing for {LiveUpdateLink.Patience.TotalSeconds:0} s.";
        }

        var answer = new byte[4096];
        int length = socket.Receive(answer);
        if (length > 0 && answer[0] == LiveUpdateLink.Runs)
        {
            _stand = _stand.Learn();
            return null;
        }

        return length > 1 && answer[0] == LiveUpdateLink.Refused
            ? Encoding.UTF8.GetString(answer, 1, length - 1)
            : "The other process went away.";
    }

    /// <summary>Returns whether the machine is here again; else it runs at the taker.</summary>
    private bool CallBack()
    {
        // A dead taker reads nothing any more. Anything else is a passing error of the host's, and the message is needed:
        // without it a taker that lives would take this process for dead.
        for (SocketError said = Say(); said != SocketError.Success && !LiveUpdateLink.IsShut(said); said = Say())
            Thread.Sleep(s_slice);
        _stand = _stand.CallBack();
        // ORDER: from here on the socket takes nothing; what it took before is read below.
        socket.Shutdown(SocketShutdown.Receive);
        var rest = new byte[1];
        int length = socket.Receive(rest, SocketFlags.None, out SocketError error);
        _stand = _stand.Shut(error == SocketError.Success && length == 1 && rest[0] == LiveUpdateLink.Runs);
        return _stand.MayRun;

        SocketError Say() => LiveUpdateLink.Say(socket, [LiveUpdateLink.Back]);
    }

    /// <summary>Runs the machine on; returns what is not as it was, or null.</summary>
    private string? TakeBack(CancellationToken cancellation)
    {
        bool isAlone = TakerHasEnded();
        string? lack = machine.TakeBack();
        machine.ResumeWorkload();
        if (isAlone)
            return lack;
        // The taker may be in the middle of charging itself; when it has ended, that is put right.
        long began = Stopwatch.GetTimestamp();
        while (!TakerHasEnded())
        {
            if (cancellation.IsCancellationRequested || Stopwatch.GetElapsedTime(began) > s_endLimit)
                return "The other process has not ended yet; its pages may be charged to it.";
            Thread.Sleep(s_slice);
        }

        return machine.TakeBack();
    }

    private bool TakerHasEnded()
    {
        Span<PollDescriptor> descriptors = [new((int)socket.Handle, PollEvents.None, PollEvents.None)];
        return kernel.Poll(descriptors, 0).Succeeded && (descriptors[0].Returned & PollEvents.HangUp) != 0;
    }
}
