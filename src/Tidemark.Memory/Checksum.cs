using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Tidemark.Memory;

/// <summary>
/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), as the processor computes it: it protects everything on the wire and in
/// files but the contents of pages (<see cref="PageHash"/>). Finds faults, not attackers.
/// </summary>
/// <remarks>
/// One step of the processor takes 8 bytes and three cycles, and three steps that do not wait for each other take three
/// cycles too. So long inputs are cut into three lanes, and the remainders put together: moving a remainder past n bytes is
/// multiplying it by x^8n modulo the polynomial.
/// </remarks>
public static partial class Checksum
{
    /// <summary>The polynomial with its bits in the order of the checksum: x^31 is bit 0.</summary>
    private const uint Polynomial = 0x82F6_3B78;

    /// <summary>LIMIT: below this, putting together costs more than the lanes save.</summary>
    private const int LanesFloor = 16 << 10;

    /// <summary>1, and x^8, in that order of bits.</summary>
    private const uint One = 1u << 31;

    private const uint OneByte = One >> 8;

    /// <summary>The checksum of any number of bytes. Nothing is allocated.</summary>
    public static uint Crc32C(ReadOnlySpan<byte> bytes)
    {
        uint crc = uint.MaxValue;
        if (bytes.Length >= LanesFloor)
        {
            int lane = bytes.Length / 3 & ~7;
            crc = ThreeLanes(crc, Words(bytes[..lane]), Words(bytes.Slice(lane, lane)), Words(bytes.Slice(2 * lane, lane)));
            bytes = bytes[(3 * lane)..];
        }

        return ~OneLane(crc, bytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static uint OneLane(uint crc, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length >= 8)
        {
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
            bytes = bytes[8..];
        }

        foreach (byte value in bytes)
            crc = BitOperations.Crc32C(crc, value);
        return crc;
    }

    /// <param name="first">As long as the others.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static uint ThreeLanes(uint crc, ReadOnlySpan<ulong> first, ReadOnlySpan<ulong> second, ReadOnlySpan<ulong> third)
    {
        uint middle = 0;
        uint last = 0;
        // All three lengths are looked at so that the compiler needs no checks inside.
        for (int at = 0; at < first.Length && at < second.Length && at < third.Length; at++)
        {
            crc = BitOperations.Crc32C(crc, first[at]);
            middle = BitOperations.Crc32C(middle, second[at]);
            last = BitOperations.Crc32C(last, third[at]);
        }

        uint shift = Power(first.Length * sizeof(ulong));
        return Multiply(Multiply(crc, shift) ^ middle, shift) ^ last;
    }

    /// <summary>x^8n modulo the polynomial.</summary>
    private static uint Power(int bytes)
    {
        uint result = One;
        for (uint factor = OneByte; bytes > 0; bytes >>= 1, factor = Multiply(factor, factor))
        {
            if ((bytes & 1) != 0)
                result = Multiply(result, factor);
        }

        return result;
    }

    private static uint Multiply(uint left, uint right)
    {
        uint product = 0;
        for (; left != 0; left <<= 1)
        {
            product ^= (left & One) != 0 ? right : 0;
            right = (right & 1) != 0 ? right >> 1 ^ Polynomial : right >> 1;
        }

        return product;
    }
}
