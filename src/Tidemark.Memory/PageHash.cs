using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Tidemark.Memory;

/// <summary>
/// The hash by which two sides compare guest memory: XXH3 with 64 bits and seed 0, as its public specification
/// (xxHash fast digest algorithm, version 0.2.0) defines it. Not cryptographic: it finds faults, not attackers.
/// </summary>
/// <remarks>
/// <code>
/// length   0        1..3       4..8     9..16      17..128         129..240        above 240
/// method   secret   3 bytes    2 words  2 words    pairs from      pairs from      8 lanes over 64-byte stripes,
///                                                  both ends       the start       16 stripes a block, then scrambled
/// </code>
/// Inputs up to 240 bytes are handled here; the stripes, where pages go, in PageHash.Unsafe.cs.
/// </remarks>
public static partial class PageHash
{
    private const uint Prime32A = 0x9E3779B1;
    private const uint Prime32B = 0x85EBCA77;
    private const uint Prime32C = 0xC2B2AE3D;
    private const ulong Prime64A = 0x9E3779B185EBCA87;
    private const ulong Prime64B = 0xC2B2AE3D27D4EB4F;
    private const ulong Prime64C = 0x165667B19E3779F9;
    private const ulong Prime64D = 0x85EBCA77C2B2AE63;
    private const ulong Prime64E = 0x27D4EB2F165667C5;
    private const ulong MixA = 0x165667919E3779F9;
    private const ulong MixB = 0x9FB21C651E98DF25;

    /// <summary>The specification's default secret.</summary>
    private static ReadOnlySpan<byte> Secret =>
    [
        0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
        0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
        0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
        0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
        0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
        0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
        0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
        0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
        0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
        0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
        0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
        0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
    ];

    /// <summary>The hash of any number of bytes. Nothing is allocated; pages run at memory bandwidth.</summary>
    public static ulong Compute(ReadOnlySpan<byte> bytes) => bytes.Length switch
    {
        > 240 => ComputeLong(bytes),
        > 128 => ComputeUpTo240(bytes),
        > 16 => ComputeUpTo128(bytes),
        > 8 => ComputeUpTo16(bytes),
        >= 4 => ComputeUpTo8(bytes),
        > 0 => ComputeUpTo3(bytes),
        _ => FinishShort(Key(56) ^ Key(64)),
    };

    private static ulong ComputeUpTo3(ReadOnlySpan<byte> bytes)
    {
        uint length = (uint)bytes.Length;
        uint combined = (uint)bytes[0] << 16 | (uint)bytes[bytes.Length >> 1] << 24 | bytes[^1] | length << 8;
        ulong flip = Word32(Secret, 0) ^ Word32(Secret, 4);
        return FinishShort(combined ^ flip);
    }

    private static ulong ComputeUpTo8(ReadOnlySpan<byte> bytes)
    {
        unchecked
        {
            ulong length = (ulong)bytes.Length;
            ulong combined = Word32(bytes, bytes.Length - 4) + ((ulong)Word32(bytes, 0) << 32);
            ulong hash = combined ^ Key(8) ^ Key(16);
            hash ^= BitOperations.RotateLeft(hash, 49) ^ BitOperations.RotateLeft(hash, 24);
            hash *= MixB;
            hash ^= (hash >> 35) + length;
            hash *= MixB;
            return hash ^ hash >> 28;
        }
    }

    private static ulong ComputeUpTo16(ReadOnlySpan<byte> bytes)
    {
        unchecked
        {
            ulong low = Word64(bytes, 0) ^ Key(24) ^ Key(32);
            ulong high = Word64(bytes, bytes.Length - 8) ^ Key(40) ^ Key(48);
            return Finish(
                (ulong)bytes.Length + BinaryPrimitives.ReverseEndianness(low) + high + MultiplyFold(low, high));
        }
    }

    private static ulong ComputeUpTo128(ReadOnlySpan<byte> bytes)
    {
        unchecked
        {
            ulong sum = (ulong)bytes.Length * Prime64A;
            // Pairs of 16 bytes from both ends towards the middle.
            int pairs = (bytes.Length - 1) / 32 + 1;
            for (int pair = 0; pair < pairs; pair++)
            {
                sum += Mix16(bytes, 16 * pair, 32 * pair);
                sum += Mix16(bytes, bytes.Length - 16 * (pair + 1), 32 * pair + 16);
            }

            return Finish(sum);
        }
    }

    private static ulong ComputeUpTo240(ReadOnlySpan<byte> bytes)
    {
        const int FirstRounds = 8;
        unchecked
        {
            ulong sum = (ulong)bytes.Length * Prime64A;
            for (int round = 0; round < FirstRounds; round++)
                sum += Mix16(bytes, 16 * round, 16 * round);
            sum = Finish(sum);
            for (int round = FirstRounds; round < bytes.Length / 16; round++)
                sum += Mix16(bytes, 16 * round, 16 * (round - FirstRounds) + 3);
            sum += Mix16(bytes, bytes.Length - 16, 136 - 17);
            return Finish(sum);
        }
    }

    private static ulong Mix16(ReadOnlySpan<byte> bytes, int offset, int secretOffset) =>
        MultiplyFold(Word64(bytes, offset) ^ Key(secretOffset), Word64(bytes, offset + 8) ^ Key(secretOffset + 8));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong MultiplyFold(ulong left, ulong right)
    {
        ulong high = Math.BigMul(left, right, out ulong low);
        return high ^ low;
    }

    private static ulong Finish(ulong hash)
    {
        unchecked
        {
            hash ^= hash >> 37;
            hash *= MixA;
            return hash ^ hash >> 32;
        }
    }

    private static ulong FinishShort(ulong hash)
    {
        unchecked
        {
            hash ^= hash >> 33;
            hash *= Prime64B;
            hash ^= hash >> 29;
            hash *= Prime64C;
            return hash ^ hash >> 32;
        }
    }

    private static ulong Key(int offset) => Word64(Secret, offset);

    private static uint Word32(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static ulong Word64(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
