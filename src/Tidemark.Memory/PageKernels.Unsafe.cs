using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Tidemark.Memory;

public static partial class PageKernels
{
    /// <summary>
    /// LIMIT: the wide loops end with one whole turn of four vectors, so they need at least that much.
    /// </summary>
    private const int VectorFloor = 256;

    private static bool IsZeroWide(ReadOnlySpan<byte> bytes) =>
        Vector512.IsHardwareAccelerated ? IsZero512(bytes) : IsZero256(bytes);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe bool IsZero512(ReadOnlySpan<byte> bytes)
    {
        // Pointers stay inside the caller's spans: checks here would only cost.
        unchecked
        {
            // SAFETY: pinned during the reads; `length` is at least one turn, and no turn begins after `length - turn`.
            fixed (byte* start = bytes)
            {
                if (Vector512.Load(start) != Vector512<byte>.Zero)
                    return false;
                const int Turn = 256;
                byte* last = start + (bytes.Length - Turn);
                for (byte* at = start; at < last; at += Turn)
                {
                    Vector512<byte> any = Vector512.Load(at) | Vector512.Load(at + 64)
                        | (Vector512.Load(at + 128) | Vector512.Load(at + 192));
                    if (any != Vector512<byte>.Zero)
                        return false;
                }

                // The last turn overlaps the one before when the length is no multiple of a turn.
                return (Vector512.Load(last) | Vector512.Load(last + 64)
                    | (Vector512.Load(last + 128) | Vector512.Load(last + 192))) == Vector512<byte>.Zero;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe bool IsZero256(ReadOnlySpan<byte> bytes)
    {
        // Pointers stay inside the caller's spans: checks here would only cost.
        unchecked
        {
            // SAFETY: as in IsZero512.
            fixed (byte* start = bytes)
            {
                if ((Vector256.Load(start) | Vector256.Load(start + 32)) != Vector256<byte>.Zero)
                    return false;
                const int Turn = 128;
                byte* last = start + (bytes.Length - Turn);
                for (byte* at = start; at < last; at += Turn)
                {
                    Vector256<byte> any = Vector256.Load(at) | Vector256.Load(at + 32)
                        | (Vector256.Load(at + 64) | Vector256.Load(at + 96));
                    if (any != Vector256<byte>.Zero)
                        return false;
                }

                return (Vector256.Load(last) | Vector256.Load(last + 32)
                    | (Vector256.Load(last + 64) | Vector256.Load(last + 96))) == Vector256<byte>.Zero;
            }
        }
    }
}
