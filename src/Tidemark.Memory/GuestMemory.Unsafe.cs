using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Tidemark.Memory;

public sealed partial class GuestMemory
{
    /// <summary>Copies bytes out of guest memory.</summary>
    public unsafe void Read(GuestPhysicalAddress address, Span<byte> into)
    {
        // SAFETY: Locate has checked that the whole range lies in one slot, and slots outlive this object by contract.
        new ReadOnlySpan<byte>((void*)Locate(address, (ulong)into.Length), into.Length).CopyTo(into);
    }

    /// <summary>Reads a naturally aligned value in one access, as a driver polls a completion queue.</summary>
    public unsafe T ReadVolatile<T>(GuestPhysicalAddress address)
        where T : unmanaged
    {
        if (address.Value % (ulong)sizeof(T) != 0)
            throw new ArgumentException($"A volatile read at {address} is not aligned to its size.", nameof(address));
        // SAFETY: Locate has checked the range; the alignment makes the access single-copy atomic on x86-64 and arm64.
        T* source = (T*)Locate(address, (ulong)sizeof(T));
        T value = Unsafe.ReadUnaligned<T>(source);
        // ORDER: acquire, so that data whose arrival this value announces is read after it.
        Thread.MemoryBarrier();
        return value;
    }

    /// <summary>A processor's write of bytes.</summary>
    public unsafe void Write(GuestPhysicalAddress address, ReadOnlySpan<byte> bytes)
    {
        ulong target = Locate(address, (ulong)bytes.Length);
        // SAFETY: Locate has checked that the whole range lies in one slot.
        bytes.CopyTo(new Span<byte>((void*)target, bytes.Length));
        WriteBarrier?.Mark(address, (ulong)bytes.Length);
    }

    /// <summary>A processor's write of one value.</summary>
    public void Write<T>(GuestPhysicalAddress address, T value)
        where T : unmanaged
    {
        // SAFETY: a local of unmanaged type seen as its bytes.
        Write(address, MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in value)));
    }

    /// <summary>
    /// The bytes of whole pages, for the engine that sends or receives them. The pages must lie in one slot.
    /// The content may change while it is read: whoever needs a fixed copy makes one first.
    /// </summary>
    public unsafe Span<byte> PagesSpan(ulong firstPage, int pageCount)
    {
        ulong byteLength = (ulong)pageCount << GuestPage.Shift;
        // SAFETY: Locate has checked that all pages lie in one slot.
        return new Span<byte>(
            (void*)Locate(new GuestPhysicalAddress(firstPage << GuestPage.Shift), byteLength), checked((int)byteLength));
    }
}
