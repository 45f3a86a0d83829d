using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Vfio;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

// mtty's migration: every state, and a stream of one header and a record for each port.
//
//   0 magic (u64) | 8 major = 1 (u32) | 12 minor = 0 | 16 ports | 20 flags = 0 | 24 port record, 36 bytes, per port
//
//   PRE_COPY*     the header; then reads give 0, because nothing can change it
//   -> STOP_COPY  the records follow in the same file; no new descriptor
//   STOP -> STOP_COPY   a file of its own, header and records
//   RESUMING -> STOP    enough bytes: loaded, the file ends; too few: EINVAL and still RESUMING
//
// The state belongs to the device, not to an open of it: a close ends the files and leaves the state where it is.

/// <summary>mtty's migration states. All members are called under the device's gate.</summary>
internal sealed class MttyMigration(IReadOnlyList<SerialPort> ports, Lock gate) : IVfioMigration
{
    public const int HeaderLength = 24;

    private MttySavingFile? _saving;
    private MttyResumingFile? _resuming;

    public VfioMigrationFlags Flags =>
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;

    public VfioDeviceMigState State { get; private set; } = Running;

    public bool PrecopyInfoHasFlags { get; set; }

    /// <summary>In every state.</summary>
    public ulong DataSize => (ulong)StreamLength;

    private int StreamLength => HeaderLength + (ports.Count * SerialPort.RecordLength);

    public Errno Request(VfioDeviceMigState target, out SoftFile? opened)
    {
        opened = null;
        if (!MigrationArcs.IsReachable(target, Flags))
            return Errno.EINVAL;
        while (State != target)
        {
            VfioDeviceMigState next = MigrationArcs.Next(State, target, Flags);
            if (next == Error)
                return Errno.EINVAL;
            Errno errno = Step(next, out opened);
            if (errno != Errno.Success)
                return errno;
            State = next;
        }

        return Errno.Success;
    }

    /// <summary>The device was reset: it runs, and no file is left.</summary>
    public void Reset()
    {
        State = Running;
        EndSessions();
    }

    /// <summary>Whatever files there are answer ENODEV from now on.</summary>
    public void EndSessions()
    {
        _saving?.Disable();
        _saving = null;
        _resuming?.Disable();
        _resuming = null;
    }

    /// <summary>Whether a header is one that this device can take.</summary>
    public bool Accepts(ReadOnlySpan<byte> header)
    {
        Span<byte> own = stackalloc byte[HeaderLength];
        WriteHeader(own);
        return header.SequenceEqual(own);
    }

    private void WriteHeader(Span<byte> header)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(header, 0x7E9D_0989_8C3E_2C4E);
        BinaryPrimitives.WriteUInt32LittleEndian(header[8..], 1);
        BinaryPrimitives.WriteUInt32LittleEndian(header[12..], 0);
        BinaryPrimitives.WriteUInt32LittleEndian(header[16..], (uint)ports.Count);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], 0);
    }

    private Errno Step(VfioDeviceMigState next, out SoftFile? opened)
    {
        opened = null;
        switch (State, next)
        {
            case (Resuming, Stop):
                if (_resuming is null || _resuming.Length < StreamLength)
                    return Errno.EINVAL;
                for (int port = 0; port < ports.Count; port++)
                    ports[port].Load(_resuming.Bytes[(HeaderLength + (port * SerialPort.RecordLength))..]);
                EndSessions();
                break;
            case (PreCopy, Running):
            case (PreCopyP2P, RunningP2P):
            case (StopCopy, Stop):
                EndSessions();
                break;
            case (Running, PreCopy):
            case (RunningP2P, PreCopyP2P):
                opened = BeginSaving();
                break;
            case (Stop, StopCopy):
            case (PreCopyP2P, StopCopy):
                opened = BeginSaving();
                AppendRecords();
                break;
            case (Stop, Resuming):
                opened = _resuming = new MttyResumingFile(this, gate, StreamLength);
                break;
        }

        // All other arcs mean nothing to a device that runs on nobody's memory.
        return Errno.Success;
    }

    /// <summary>A file with the header, or null: there is one, which goes on.</summary>
    private MttySavingFile? BeginSaving()
    {
        if (_saving is not null)
            return null;
        _saving = new MttySavingFile(this, gate, StreamLength);
        WriteHeader(_saving.Append(HeaderLength));
        return _saving;
    }

    private void AppendRecords()
    {
        foreach (SerialPort port in ports)
            port.Record.CopyTo(_saving!.Append(SerialPort.RecordLength));
    }
}
