using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Tidemark.Kernel;
using Tidemark.Machine.Description;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>Takes a machine over from a socket, or leaves it; once. What it may do when is <see cref="TakerHandover"/>'s.</summary>
internal sealed class UpdateTaker(IKernel kernel, Socket socket, Action<LiveUpdateStep>? onStep)
{
    private const string CalledBack = "The process that has the machine has called it back, and runs it.";

    private TakerHandover _stand = new(TakerStand.Waits);

    public GuestMachine Run(MachineDescription description, ISysfs sysfs, out TimeSpan stoodStill)
    {
        GuestMachine? machine = null;
        long stopped;
        try
        {
            MachineInheritance inheritance = Receive(out stopped);
            _stand = _stand.Hold();
            machine = Adopt(description, sysfs, inheritance);
            onStep?.Invoke(LiveUpdateStep.Adopted);
            if (IsCalledBack())
                throw new IOException(CalledBack);
            machine.TakeCharge();
            _stand = _stand.Prepare();
            onStep?.Invoke(LiveUpdateStep.Charged);
            _stand = _stand.Say(LiveUpdateLink.Say(socket, [LiveUpdateLink.Runs]) == SocketError.Success);
            if (_stand.Stand == TakerStand.Doubts)
                _stand = _stand.Look(FindBack());
            if (!_stand.MayRun)
                throw new IOException(CalledBack);
        }
        catch (Exception failure)
        {
            _stand = _stand.GiveUp();
            // ORDER: first nothing of it is here any more, then the giver is told, who takes everything back.
            machine?.Relinquish();
            machine?.Dispose();
            byte[] reason = Encoding.UTF8.GetBytes(failure.Message);
            LiveUpdateLink.Say(socket, [LiveUpdateLink.Refused, .. reason.AsSpan(0, Math.Min(reason.Length, 4000))]);
            throw;
        }

        try
        {
            onStep?.Invoke(LiveUpdateStep.Said);
            machine.GoOn();
            stoodStill = Stopwatch.GetElapsedTime(stopped);
            return machine;
        }
        catch
        {
            // A defect of ours: it is this process's machine, and ends with it.
            machine.Dispose();
            throw;
        }
    }

    private GuestMachine Adopt(MachineDescription description, ISysfs sysfs, MachineInheritance inheritance)
    {
        try
        {
            return GuestMachine.Adopt(description, kernel, sysfs, inheritance);
        }
        catch
        {
            inheritance.Dispose();
            throw;
        }
    }

    private MachineInheritance Receive(out long stopped)
    {
        var head = new byte[LiveUpdateLink.HeadLength];
        var numbers = new int[LiveUpdateLink.MaximumDescriptors];
        SyscallResult received = kernel.ReceiveRights((int)socket.Handle, head, numbers);
        received.ThrowIfFailed("Receiving a machine's descriptors from another process");
        KernelFd[] descriptors = [.. numbers.Where(number => number >= 0).Select(number => new KernelFd(kernel, number))];
        try
        {
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(head.AsSpan(8));
            stopped = BinaryPrimitives.ReadInt64LittleEndian(head.AsSpan(16));
            if (received.Value == 0 || (received.Value == 1 && head[0] == LiveUpdateLink.Back))
                throw new IOException("The process that has the machine did not hand it over; `tidemark status` asks it.");
            if (received.Value != LiveUpdateLink.HeadLength || descriptors.Length == 0
                || BinaryPrimitives.ReadUInt32LittleEndian(head) != LiveUpdateLink.Magic
                || BinaryPrimitives.ReadUInt32LittleEndian(head.AsSpan(4)) != LiveUpdateLink.Version
                || length > LiveUpdateLink.MaximumManifestBytes)
            {
                throw new InvalidDataException("The other process does not speak this version of the live update.");
            }

            byte[] manifest = ReadManifest(descriptors[0], (int)length);
            descriptors[0].Dispose();
            return MachineInheritance.Of(descriptors[1..], manifest);
        }
        catch
        {
            Array.ForEach(descriptors, descriptor => descriptor.Dispose());
            throw;
        }
    }

    private byte[] ReadManifest(KernelFd file, int length)
    {
        var manifest = new byte[length];
        for (int filled = 0; filled < length;)
        {
            SyscallResult result = kernel.Pread(file.Number, manifest.AsSpan(filled), (ulong)filled);
            result.ThrowIfFailed("Reading what the other process knows of the machine");
            filled += result.Value > 0 ? (int)result.Value : throw new InvalidDataException("What the other process knows of the machine is cut short.");
        }

        return manifest;
    }

    /// <summary>Whether "back" is there already; nothing has been changed yet then.</summary>
    private bool IsCalledBack()
    {
        if (!socket.Poll(TimeSpan.Zero, SelectMode.SelectRead))
            return false;
        var message = new byte[1];
        return socket.Receive(message, SocketFlags.Peek, out SocketError error) == 1 && error == SocketError.Success
            && message[0] == LiveUpdateLink.Back;
    }

    /// <summary>Whether the giver, whose door is shut, has said "back"; else it is dead.</summary>
    private bool FindBack()
    {
        var message = new byte[1];
        int length = socket.Receive(message, SocketFlags.None, out SocketError error);
        if (error == SocketError.Success && length == 1)
            return message[0] == LiveUpdateLink.Back;
        // A door that is shut by a process that lives and has said nothing: that is nobody of ours, and no death.
        return error != SocketError.Success && !LiveUpdateLink.IsShut(error);
    }
}
