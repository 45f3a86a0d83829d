namespace Tidemark.Memory;

/// <summary>The loops over page contents, at memory bandwidth, nothing allocated.</summary>
public static partial class PageKernels
{
    /// <summary>
    /// Whether every byte is 0. Most pages that are not zero differ in their first 64 bytes, so those are looked at
    /// first; the rest is read in one pass that ends at the first difference.
    /// </summary>
    public static bool IsZero(ReadOnlySpan<byte> bytes) =>
        bytes.Length >= VectorFloor ? IsZeroWide(bytes) : !bytes.ContainsAnyExcept((byte)0);
}
