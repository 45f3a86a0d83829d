using System.Runtime.InteropServices;

namespace Tidemark.Kernel;

public sealed partial class Mapping
{
    /// <summary>
    /// The bytes. A span keeps nothing alive: do not use it after <see cref="Dispose"/>.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The memory is unmapped.</exception>
    public unsafe Span<byte> Bytes(ulong offset, int byteLength)
    {
        ulong length = ByteLength;
        ObjectDisposedException.ThrowIf(length == 0, this);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)(uint)byteLength, length - offset);
        // SAFETY: the range was checked against the live mapping; the caller keeps this object alive while it uses it.
        return new Span<byte>((byte*)Address.Value + offset, byteLength);
    }

    /// <summary>The bytes as 64-bit words, from the start.</summary>
    public Span<ulong> Words(int wordCount) =>
        // SAFETY: ulong has no invalid values, and a mapping is page aligned.
        MemoryMarshal.Cast<byte, ulong>(Bytes(0, checked(wordCount * sizeof(ulong))));
}
