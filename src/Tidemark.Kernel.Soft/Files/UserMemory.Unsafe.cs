using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Files;

internal sealed partial class UserMemory
{
    private enum Access
    {
        CopyIn,
        CopyOut,
        Or,
        Clear,
    }

    /// <summary>Reads the caller's memory. False: EFAULT; the buffer is then partly filled.</summary>
    public unsafe bool TryCopyIn(ulong address, Span<byte> into)
    {
        // SAFETY: pinned for the call; Visit stays within the length given.
        fixed (byte* bytes = into)
            return Visit(address, bytes, (ulong)into.Length, Access.CopyIn);
    }

    /// <summary>Writes the caller's memory. False: EFAULT; what comes before the bad address is written.</summary>
    public unsafe bool TryCopyOut(ulong address, ReadOnlySpan<byte> from)
    {
        // SAFETY: as above; CopyOut only reads.
        fixed (byte* bytes = from)
            return Visit(address, bytes, (ulong)from.Length, Access.CopyOut);
    }

    /// <summary>ORs bits in; a byte without bits to set is not written. False: some of it was EFAULT.</summary>
    public unsafe bool TryOr(ulong address, ReadOnlySpan<byte> bits)
    {
        // SAFETY: as above; Or only reads.
        fixed (byte* bytes = bits)
            return Visit(address, bytes, (ulong)bits.Length, Access.Or);
    }

    /// <summary>Writes zeros. False: EFAULT.</summary>
    public unsafe bool TryClear(ulong address, ulong byteLength) =>
        // SAFETY: Clear does not touch the other side.
        Visit(address, null, byteLength, Access.Clear);

    private unsafe bool Visit(ulong address, byte* other, ulong byteLength, Access access)
    {
        MemoryProtection needed = access == Access.CopyIn ? MemoryProtection.Read : MemoryProtection.Write;
        _gate.EnterReadLock();
        try
        {
            while (byteLength != 0)
            {
                if (!TryFind(address, out Region region) || region.Memory is not MemoryObject memory
                    || (region.Protection & needed) == 0)
                {
                    return false;
                }

                // A page at a time: the file may end inside the mapping, and a touch beyond would be SIGBUS.
                ulong part = Math.Min(byteLength, GuestPage.Size - address % GuestPage.Size);
                ulong page = region.Offset + (address - address % GuestPage.Size - region.Start);
                if (!memory.Holds(page))
                    return false;
                Touch((byte*)address, other, (int)part, access);
                unchecked
                {
                    address += part;
                }

                byteLength -= part;
                other = other is null ? null : other + part;
            }

            return true;
        }
        finally
        {
            _gate.ExitReadLock();
        }
    }

    private static unsafe void Touch(byte* user, byte* other, int length, Access access)
    {
        // SAFETY: Visit found `length` bytes mapped with the protection needed, in a page its file has, and the lock it
        // holds keeps them mapped. Another thread of the owner may write them meanwhile; then the bytes are mixed, as
        // in a system call.
        switch (access)
        {
            case Access.CopyIn:
                new ReadOnlySpan<byte>(user, length).CopyTo(new Span<byte>(other, length));
                break;
            case Access.CopyOut:
                new ReadOnlySpan<byte>(other, length).CopyTo(new Span<byte>(user, length));
                break;
            case Access.Clear:
                new Span<byte>(user, length).Clear();
                break;
            case Access.Or:
                for (int index = 0; index < length; index++)
                {
                    if (other[index] != 0)
                        user[index] |= other[index];
                }

                break;
        }
    }
}
