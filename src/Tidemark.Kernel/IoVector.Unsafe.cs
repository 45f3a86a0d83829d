using System.Runtime.InteropServices;

namespace Tidemark.Kernel;

/// <summary>struct iovec: a piece of this process's memory that does not move.</summary>
/// <param name="Address">Where it begins.</param>
/// <param name="ByteLength">Its length in bytes.</param>
[StructLayout(LayoutKind.Sequential)]
public readonly record struct IoVector(ulong Address, ulong ByteLength)
{
    /// <summary>The first bytes of an array.</summary>
    /// <param name="pinned">Allocated as pinned (<see cref="GC.AllocateArray{T}(int, bool)"/>); the caller keeps it alive
    /// for as long as the vector is used.</param>
    public static IoVector Of(byte[] pinned, int byteLength)
    {
        ArgumentNullException.ThrowIfNull(pinned);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(byteLength, pinned.Length);
        // SAFETY: by contract the array is pinned for its whole life, so the address stays its own.
        return new IoVector((ulong)Marshal.UnsafeAddrOfPinnedArrayElement(pinned, 0), (ulong)byteLength);
    }
}
