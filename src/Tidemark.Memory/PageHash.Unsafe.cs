using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Tidemark.Memory;

public static partial class PageHash
{
    private const int StripeSize = 64;
    private const int SecretStep = 8;
    private const int StripesPerBlock = 16;
    private const int BlockSize = StripeSize * StripesPerBlock;
    private const int SecretOfScramble = 192 - StripeSize;
    private const int SecretOfLastStripe = 192 - StripeSize - 7;
    private const int SecretOfMerge = 11;

    /// <summary>Which of the three forms runs here: tests compare them all.</summary>
    internal enum LongForm
    {
        Scalar,
        Vector256,
        Vector512,
    }

    internal static bool Supports(LongForm form) => form switch
    {
        LongForm.Scalar => true,
        LongForm.Vector256 => Avx2.IsSupported,
        LongForm.Vector512 => Avx512F.IsSupported && Vector512.IsHardwareAccelerated,
        _ => false,
    };

    /// <summary>The hash of several pages, from the hash of each: over their bytes, little-endian.</summary>
    public static ulong Combine(ReadOnlySpan<ulong> hashes) =>
        // SAFETY: numbers seen as their bytes; x86-64 and arm64 are little-endian.
        Compute(System.Runtime.InteropServices.MemoryMarshal.AsBytes(hashes));

    internal static unsafe ulong ComputeLong(ReadOnlySpan<byte> bytes, LongForm form)
    {
        Debug.Assert(bytes.Length > 240);
        ulong* lanes = stackalloc ulong[8]
        {
            Prime32C, Prime64A, Prime64B, Prime64C, Prime64D, Prime32B, Prime64E, Prime32A,
        };
        // SAFETY: both spans are pinned while their pointers are used, and every form reads whole stripes of which the
        // last ends with the input; the secret is read up to byte 192 at most (128 + 64).
        fixed (byte* input = bytes)
        fixed (byte* secret = Secret)
        {
            if (form == LongForm.Vector512)
                Accumulate512(lanes, input, bytes.Length, secret);
            else if (form == LongForm.Vector256)
                Accumulate256(lanes, input, bytes.Length, secret);
            else
                AccumulateScalar(lanes, input, bytes.Length, secret);
        }

        unchecked
        {
            ulong sum = (ulong)bytes.Length * Prime64A;
            for (int pair = 0; pair < 4; pair++)
            {
                sum += MultiplyFold(
                    lanes[2 * pair] ^ Key(SecretOfMerge + 16 * pair),
                    lanes[2 * pair + 1] ^ Key(SecretOfMerge + 16 * pair + 8));
            }

            return Finish(sum);
        }
    }

    private static ulong ComputeLong(ReadOnlySpan<byte> bytes)
    {
        if (Avx512F.IsSupported && Vector512.IsHardwareAccelerated)
            return ComputeLong(bytes, LongForm.Vector512);
        return ComputeLong(bytes, Avx2.IsSupported ? LongForm.Vector256 : LongForm.Scalar);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Accumulate512(ulong* lanes, byte* input, int length, byte* secret)
    {
        // Pointers stay inside the caller's spans: checks here would only cost.
        unchecked
        {
            // SAFETY: see ComputeLong; all loads are unaligned ones.
            Vector512<ulong> sum = Vector512.Load(lanes);
            Vector512<ulong> scrambleKey = Vector512.Load((ulong*)(secret + SecretOfScramble));
            int blocks = (length - 1) / BlockSize;
            for (int block = 0; block < blocks; block++, input += BlockSize)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe++)
                    sum = Add512(sum, input + stripe * StripeSize, secret + stripe * SecretStep);
                sum = (sum ^ sum >>> 47 ^ scrambleKey) * Vector512.Create((ulong)Prime32A);
            }

            int left = length - blocks * BlockSize;
            int stripes = (left - 1) / StripeSize;
            for (int stripe = 0; stripe < stripes; stripe++)
                sum = Add512(sum, input + stripe * StripeSize, secret + stripe * SecretStep);
            Add512(sum, input + left - StripeSize, secret + SecretOfLastStripe).Store(lanes);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<ulong> Add512(Vector512<ulong> sum, byte* input, byte* secret)
    {
        // SAFETY: the caller's stripe and secret both have 64 bytes.
        Vector512<ulong> data = Vector512.Load((ulong*)input);
        Vector512<ulong> key = data ^ Vector512.Load((ulong*)secret);
        Vector512<ulong> product = Avx512F.Multiply(key.AsUInt32(), (key >>> 32).AsUInt32());
        // Each lane's data goes to its neighbour: 64-bit halves of each 128 bits change places.
        Vector512<ulong> swapped = Avx512F.Shuffle(data.AsUInt32(), 0b01_00_11_10).AsUInt64();
        return sum + product + swapped;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Accumulate256(ulong* lanes, byte* input, int length, byte* secret)
    {
        // Pointers stay inside the caller's spans: checks here would only cost.
        unchecked
        {
            // SAFETY: see ComputeLong.
            Vector256<ulong> low = Vector256.Load(lanes);
            Vector256<ulong> high = Vector256.Load(lanes + 4);
            Vector256<ulong> lowKey = Vector256.Load((ulong*)(secret + SecretOfScramble));
            Vector256<ulong> highKey = Vector256.Load((ulong*)(secret + SecretOfScramble + 32));
            int blocks = (length - 1) / BlockSize;
            for (int block = 0; block < blocks; block++, input += BlockSize)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe++)
                {
                    byte* data = input + stripe * StripeSize;
                    byte* key = secret + stripe * SecretStep;
                    low = Add256(low, data, key);
                    high = Add256(high, data + 32, key + 32);
                }

                low = (low ^ low >>> 47 ^ lowKey) * Vector256.Create((ulong)Prime32A);
                high = (high ^ high >>> 47 ^ highKey) * Vector256.Create((ulong)Prime32A);
            }

            int left = length - blocks * BlockSize;
            int stripes = (left - 1) / StripeSize;
            for (int stripe = 0; stripe < stripes; stripe++)
            {
                byte* data = input + stripe * StripeSize;
                byte* key = secret + stripe * SecretStep;
                low = Add256(low, data, key);
                high = Add256(high, data + 32, key + 32);
            }

            byte* last = input + left - StripeSize;
            secret += SecretOfLastStripe;
            Add256(low, last, secret).Store(lanes);
            Add256(high, last + 32, secret + 32).Store(lanes + 4);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector256<ulong> Add256(Vector256<ulong> sum, byte* input, byte* secret)
    {
        // SAFETY: the caller's half stripe and secret both have 32 bytes.
        Vector256<ulong> data = Vector256.Load((ulong*)input);
        Vector256<ulong> key = data ^ Vector256.Load((ulong*)secret);
        Vector256<ulong> product = Avx2.Multiply(key.AsUInt32(), (key >>> 32).AsUInt32());
        Vector256<ulong> swapped = Avx2.Shuffle(data.AsUInt32(), 0b01_00_11_10).AsUInt64();
        return sum + product + swapped;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void AccumulateScalar(ulong* lanes, byte* input, int length, byte* secret)
    {
        // Pointers stay inside the caller's spans: checks here would only cost.
        unchecked
        {
            // SAFETY: see ComputeLong.
            int blocks = (length - 1) / BlockSize;
            for (int block = 0; block < blocks; block++, input += BlockSize)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe++)
                    AddScalar(lanes, input + stripe * StripeSize, secret + stripe * SecretStep);
                for (int lane = 0; lane < 8; lane++)
                {
                    ulong value = lanes[lane];
                    ulong key = Unsafe.ReadUnaligned<ulong>(secret + SecretOfScramble + 8 * lane);
                    lanes[lane] = unchecked((value ^ value >> 47 ^ key) * Prime32A);
                }
            }

            int left = length - blocks * BlockSize;
            int stripes = (left - 1) / StripeSize;
            for (int stripe = 0; stripe < stripes; stripe++)
                AddScalar(lanes, input + stripe * StripeSize, secret + stripe * SecretStep);
            AddScalar(lanes, input + left - StripeSize, secret + SecretOfLastStripe);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void AddScalar(ulong* lanes, byte* input, byte* secret)
    {
        // SAFETY: the caller's stripe and secret both have 64 bytes; lanes has 8 words.
        unchecked
        {
            for (int lane = 0; lane < 8; lane++)
            {
                ulong data = Unsafe.ReadUnaligned<ulong>(input + 8 * lane);
                ulong key = data ^ Unsafe.ReadUnaligned<ulong>(secret + 8 * lane);
                lanes[lane ^ 1] += data;
                lanes[lane] += (key & uint.MaxValue) * (key >> 32);
            }
        }
    }
}
