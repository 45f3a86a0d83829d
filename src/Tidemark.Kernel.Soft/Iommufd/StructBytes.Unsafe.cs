using System.Runtime.InteropServices;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>uAPI structs as bytes. Their layouts are the kernel's, which a test of the Abi project proves.</summary>
internal static class StructBytes
{
    // SAFETY: the uAPI structs are unmanaged, sequential and have no invalid values; the spans' lengths are checked.
    public static Span<byte> Of<T>(ref T value)
        where T : unmanaged =>
        MemoryMarshal.AsBytes(new Span<T>(ref value));

    // SAFETY: as above.
    public static ReadOnlySpan<byte> OfReadOnly<T>(ref readonly T value)
        where T : unmanaged =>
        MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in value));
}
