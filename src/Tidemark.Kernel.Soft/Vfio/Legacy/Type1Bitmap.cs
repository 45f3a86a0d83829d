using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>
/// What a type1 container knows of the dirty pages of one mapping, and how it tells: in words of 64 bits.
/// </summary>
/// <remarks>
/// <code>
/// caller's words    | ....mmmm | mmmmmmmm | mm...... |      m: bits of the mapping, which begins inside a word
///                     ORed in    written    written: zeros after the mapping
/// </code>
/// As Linux does it, in the mapping's own buffer: the buffer is shifted to the place in the word, what the caller's
/// first word held is added (all of it, not only the bits before the mapping), and the words are copied out. Afterwards
/// only the mapping's own number of bits is cleared, so what was shifted beyond them comes back with the next report,
/// after the mapping's end. Software must read the bits of its own mappings only.
/// </remarks>
internal sealed class Type1Bitmap(int pages)
{
    private const int BitsPerWord = 64;
    private const int ChunkWords = 128;

    private readonly ulong[] _words = new ulong[WordsOf((ulong)pages) + 1];

    /// <summary>Bytes of bitmap for a number of pages: whole words.</summary>
    public static ulong BytesOf(ulong pages) => unchecked((pages + (BitsPerWord - 1)) & ~(ulong)(BitsPerWord - 1)) / 8;

    public void SetAll()
    {
        int whole = pages / BitsPerWord;
        _words.AsSpan(0, whole).Fill(ulong.MaxValue);
        if (pages % BitsPerWord != 0)
            _words[whole] |= (1UL << (pages % BitsPerWord)) - 1;
    }

    /// <summary>Forgets what was reported.</summary>
    public void Clear()
    {
        int whole = pages / BitsPerWord;
        _words.AsSpan(0, whole).Clear();
        if (pages % BitsPerWord != 0)
            _words[whole] &= ~((1UL << (pages % BitsPerWord)) - 1);
    }

    /// <summary>Writes the bits where a bit of the caller's bitmap begins. EFAULT: not the caller's memory.</summary>
    public Errno Report(UserMemory user, ulong address, ulong firstBit)
    {
        ulong to = unchecked(address + (firstBit / BitsPerWord * sizeof(ulong)));
        int shift = (int)(firstBit % BitsPerWord);
        Span<ulong> words = _words.AsSpan(0, WordsOf((ulong)pages + (ulong)shift));
        Span<byte> chunk = stackalloc byte[ChunkWords * sizeof(ulong)];
        if (shift != 0)
        {
            for (int index = words.Length - 1; index >= 0; index--)
                words[index] = words[index] << shift | (index == 0 ? 0 : words[index - 1] >> (BitsPerWord - shift));
            if (!user.TryCopyIn(to, chunk[..sizeof(ulong)]))
                return Errno.EFAULT;
            words[0] |= BinaryPrimitives.ReadUInt64LittleEndian(chunk);
        }

        while (!words.IsEmpty)
        {
            int count = Math.Min(words.Length, ChunkWords);
            for (int index = 0; index < count; index++)
                BinaryPrimitives.WriteUInt64LittleEndian(chunk[(index * sizeof(ulong))..], words[index]);
            if (!user.TryCopyOut(to, chunk[..(count * sizeof(ulong))]))
                return Errno.EFAULT;
            to = unchecked(to + (ulong)(count * sizeof(ulong)));
            words = words[count..];
        }

        return Errno.Success;
    }

    private static int WordsOf(ulong bits) => (int)((bits + (BitsPerWord - 1)) / BitsPerWord);
}
