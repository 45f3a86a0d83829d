using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>The NVM command set: read, write, flush; and the way of data through PRPs.</summary>
internal sealed partial class NvmeController
{
    private const uint AllNamespaces = uint.MaxValue;

    private void ExecuteIO(NvmeCommand command)
    {
        SubmissionEntry entry = command.Entry;
        switch ((NvmOpcode)entry.Opcode)
        {
            case NvmOpcode.Flush when entry.NamespaceId is 1 or AllNamespaces:
                command.Finish(_disk.Flush() == Errno.Success ? NvmeStatus.Success : NvmeStatus.WriteFault);
                break;
            case NvmOpcode.Read or NvmOpcode.Write when entry.NamespaceId == 1:
                ExecuteTransfer(command, isRead: (NvmOpcode)entry.Opcode == NvmOpcode.Read);
                break;
            case NvmOpcode.Flush or NvmOpcode.Read or NvmOpcode.Write:
                command.Finish(NvmeStatus.InvalidNamespace);
                break;
            default:
                command.Finish(NvmeStatus.InvalidOpcode);
                break;
        }
    }

    /// <summary>One chunk of a read or write.</summary>
    private void ExecuteTransfer(NvmeCommand command, bool isRead)
    {
        if (command.Pages is null)
        {
            NvmeStatus begun = BeginTransfer(command, isRead);
            if (!begun.Succeeded)
            {
                command.Finish(begun);
                return;
            }
        }

        int take = (int)Math.Min(command.ByteLength - command.DoneBytes, (uint)_bounce.Length);
        Span<byte> chunk = _bounce.AsSpan(0, take);
        ulong diskOffset = (command.Entry.StartingBlock << NvmeLimits.BlockShift) + command.DoneBytes;
        NvmeStatus status = isRead ? ReadChunk(command, diskOffset, chunk) : WriteChunk(command, diskOffset, chunk);
        if (!status.Succeeded)
        {
            command.Finish(status);
            return;
        }

        command.DoneBytes += (uint)take;
        if (command.DoneBytes < command.ByteLength)
            return;
        if (!isRead && (command.Entry.ForceUnitAccess || !WriteCacheEnabled) && _disk.Flush() != Errno.Success)
            status = NvmeStatus.WriteFault;
        CountTransfer(isRead, command.ByteLength);
        command.Finish(status);
    }

    private NvmeStatus ReadChunk(NvmeCommand command, ulong diskOffset, Span<byte> chunk)
    {
        if (_disk.Read(diskOffset, chunk) != Errno.Success)
        {
            CountMediaError();
            return NvmeStatus.UnrecoveredReadError;
        }

        return CopyToGuest(command.Pages!, command.DoneBytes, chunk)
            ? NvmeStatus.Success : NvmeStatus.DataTransferError;
    }

    private NvmeStatus WriteChunk(NvmeCommand command, ulong diskOffset, Span<byte> chunk)
    {
        if (!CopyFromGuest(command.Pages!, command.DoneBytes, chunk))
            return NvmeStatus.DataTransferError;
        if (_disk.Write(diskOffset, chunk) == Errno.Success)
            return NvmeStatus.Success;
        CountMediaError();
        return NvmeStatus.WriteFault;
    }

    /// <summary>
    /// Checks the command and learns where its data lies. Done again after a move, with the same answer.
    /// </summary>
    private NvmeStatus BeginTransfer(NvmeCommand command, bool isRead)
    {
        SubmissionEntry entry = command.Entry;
        if (entry.Flags != 0)
            return NvmeStatus.InvalidField; // Fused, or SGLs.
        ulong byteLength = (ulong)entry.BlockCount << NvmeLimits.BlockShift;
        if (byteLength > NvmeLimits.TransferBytes)
            return NvmeStatus.InvalidField; // Section 5.15.2.2, MDTS.
        ulong blocks = _disk.BlockCount;
        if (entry.StartingBlock >= blocks || entry.BlockCount > blocks - entry.StartingBlock)
            return NvmeStatus.LbaOutOfRange;
        if (!isRead && _disk.ReadOnly)
            return NvmeStatus.NamespaceWriteProtected;
        return ResolvePages(command, (uint)byteLength);
    }

    /// <summary>
    /// Reads PRP1, PRP2 and lists into <see cref="NvmeCommand.Pages"/>. At most 1 MiB: at most 257 pages.
    /// </summary>
    private NvmeStatus ResolvePages(NvmeCommand command, uint byteLength)
    {
        const ulong OffsetMask = PrpGeometry.PageByteLength - 1;
        SubmissionEntry entry = command.Entry;
        if ((entry.Prp1 & 3) != 0)
            return NvmeStatus.PrpOffsetInvalid;
        uint count = PrpGeometry.CountPages(entry.Prp1, byteLength);
        var pages = new ulong[count];
        pages[0] = entry.Prp1;
        NvmeStatus status = NvmeStatus.Success;
        if (count == 2)
        {
            pages[1] = entry.Prp2;
            status = (entry.Prp2 & OffsetMask) == 0 ? NvmeStatus.Success : NvmeStatus.PrpOffsetInvalid;
        }
        else if (count > 2)
        {
            status = ReadPrpLists(entry.Prp2, pages);
        }

        if (!status.Succeeded)
            return status;
        command.Pages = pages;
        command.ByteLength = byteLength;
        // A saved command's progress is checked here, where the length is known.
        command.DoneBytes = Math.Min(command.DoneBytes, byteLength);
        return NvmeStatus.Success;
    }

    /// <summary>
    /// Fills all but the first page address. Ends: a list pointer inside a page costs one turn, and each further list
    /// begins a page and brings 511 addresses.
    /// </summary>
    private NvmeStatus ReadPrpLists(ulong list, ulong[] pages)
    {
        const ulong OffsetMask = PrpGeometry.PageByteLength - 1;
        if ((list & (PrpGeometry.EntryByteLength - 1)) != 0)
            return NvmeStatus.PrpOffsetInvalid;
        Span<byte> copy = stackalloc byte[PrpGeometry.PageByteLength];
        int filled = 1;
        while (true)
        {
            int slots = (int)PrpGeometry.EntriesFrom(list);
            int remaining = pages.Length - filled;
            bool chained = remaining > slots;
            int take = chained ? slots : remaining;
            if (!DmaRead(list, copy[..(take * PrpGeometry.EntryByteLength)]))
                return NvmeStatus.DataTransferError;
            for (int index = 0; index < take; index++)
            {
                ulong address = BinaryPrimitives.ReadUInt64LittleEndian(copy[(index * PrpGeometry.EntryByteLength)..]);
                if ((address & OffsetMask) != 0)
                    return NvmeStatus.PrpOffsetInvalid;
                if (chained && index == take - 1)
                    list = address;
                else
                    pages[filled++] = address;
            }

            if (!chained)
                return NvmeStatus.Success;
        }
    }

    private bool CopyToGuest(ulong[] pages, uint dataOffset, ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            ulong address = Place(pages, dataOffset, data.Length, out int take);
            if (!DmaWrite(address, data[..take]))
                return false;
            dataOffset += (uint)take;
            data = data[take..];
        }

        return true;
    }

    private bool CopyFromGuest(ulong[] pages, uint dataOffset, Span<byte> data)
    {
        while (!data.IsEmpty)
        {
            ulong address = Place(pages, dataOffset, data.Length, out int take);
            if (!DmaRead(address, data[..take]))
                return false;
            dataOffset += (uint)take;
            data = data[take..];
        }

        return true;
    }

    /// <summary>Where a byte of the data lies, and how many from there on lie in the same page.</summary>
    private static ulong Place(ulong[] pages, uint dataOffset, int maximum, out int take)
    {
        const uint OffsetMask = PrpGeometry.PageByteLength - 1;
        uint position = (uint)(pages[0] & OffsetMask) + dataOffset;
        uint inside = position & OffsetMask;
        take = Math.Min(maximum, (int)(PrpGeometry.PageByteLength - inside));
        return (pages[position >> PrpGeometry.PageShift] & ~(ulong)OffsetMask) + inside;
    }
}
