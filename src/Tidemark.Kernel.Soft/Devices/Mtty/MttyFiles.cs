using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>
/// A stream of mtty's state. When its session ends it answers ENODEV; closing its descriptors does not end a session.
/// </summary>
internal abstract class MttyFile(Lock gate, int capacity) : SoftFile
{
    protected byte[] Stream { get; } = new byte[capacity];

    public override string Kind => "mtty-migration";

    /// <summary>Bytes that are there. Under the gate.</summary>
    public int Length { get; protected set; }

    protected Lock Gate { get; } = gate;

    protected bool Disabled { get; private set; }

    protected int Position { get; set; }

    /// <summary>The session ended. Under the gate.</summary>
    public void Disable()
    {
        Disabled = true;
        Length = 0;
        Position = 0;
    }

    public override void Release()
    {
    }
}

/// <summary>The stream of a saving session: read only.</summary>
internal sealed class MttySavingFile(MttyMigration migration, Lock gate, int capacity) : MttyFile(gate, capacity)
{
    /// <summary>Room for further bytes. Under the gate.</summary>
    public Span<byte> Append(int count)
    {
        Span<byte> room = Stream.AsSpan(Length, count);
        Length += count;
        return room;
    }

    /// <summary>0 when everything was read, also in PRE_COPY: mtty does not answer ENOMSG.</summary>
    public override SyscallResult Read(Span<byte> buffer)
    {
        lock (Gate)
        {
            if (Disabled)
                return SyscallResult.Fail(Errno.ENODEV);
            int count = Math.Min(Length - Position, buffer.Length);
            Stream.AsSpan(Position, count).CopyTo(buffer);
            Position += count;
            return SyscallResult.Ok(count);
        }
    }

    public override SyscallResult Write(ReadOnlySpan<byte> buffer) => SyscallResult.Fail(Errno.EBADF);

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        lock (Gate)
        {
            Errno errno = PrecopyInfoArgument.Read(
                request, argument, migration.PrecopyInfoHasFlags, out VfioPrecopyInfo info);
            // ORDER: the device's state is looked at before the session's.
            if (errno == Errno.Success
                && migration.State is not (VfioDeviceMigState.PreCopy or VfioDeviceMigState.PreCopyP2P))
                errno = Errno.EINVAL;
            if (errno == Errno.Success && Disabled)
                errno = Errno.ENODEV;
            if (errno != Errno.Success)
                return SyscallResult.Fail(errno);
            info.DirtyBytes = 0;
            info.InitialBytes = (ulong)(Length - Position);
            VfioArgument.Write(argument, info, (int)VfioPrecopyInfo.MinimumSize);
            return SyscallResult.Ok();
        }
    }

    public override SyscallResult IoctlValue(uint request, ulong argument) => Ioctl(request, []);
}

/// <summary>The stream of a resuming session: write only.</summary>
internal sealed class MttyResumingFile(MttyMigration migration, Lock gate, int capacity) : MttyFile(gate, capacity)
{
    /// <summary>Everything written. Under the gate.</summary>
    public ReadOnlySpan<byte> Bytes => Stream;

    public override SyscallResult Read(Span<byte> buffer) => SyscallResult.Fail(Errno.EBADF);

    public override SyscallResult Write(ReadOnlySpan<byte> buffer)
    {
        lock (Gate)
        {
            // ORDER: the length is looked at before the session.
            if (buffer.Length > Stream.Length - Position)
                return SyscallResult.Fail(Errno.ENOMEM);
            if (Disabled)
                return SyscallResult.Fail(Errno.ENODEV);
            buffer.CopyTo(Stream.AsSpan(Position));
            Position += buffer.Length;
            bool completesHeader = Length < MttyMigration.HeaderLength && Position >= MttyMigration.HeaderLength;
            Length = Position;
            // The bytes of a bad header count all the same: mtty then looks only at how many there are.
            if (completesHeader && !migration.Accepts(Stream.AsSpan(0, MttyMigration.HeaderLength)))
                return SyscallResult.Fail(Errno.EFAULT);
            return SyscallResult.Ok(buffer.Length);
        }
    }
}
