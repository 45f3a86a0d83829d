using System.Runtime.InteropServices;

namespace Tidemark.Memory;

public static partial class Checksum
{
    /// <summary>x86-64 and arm64 are little-endian, as the checksum's order of bytes is.</summary>
    private static ReadOnlySpan<ulong> Words(ReadOnlySpan<byte> bytes) =>
        // SAFETY: the same bytes, seen eight at a time and only read; loads of both architectures need no alignment.
        MemoryMarshal.Cast<byte, ulong>(bytes);
}
