using System.Numerics;
using System.Runtime.InteropServices;

namespace Tidemark.Memory.Tests;

public sealed class PageHashTests
{
    private const int LongestInput = 5000;

    /// <summary>
    /// Made once with xxHash's own library over <see cref="Input"/>: every method and both sides of each border.
    /// </summary>
    public static TheoryData<int, ulong> KnownVectors => new()
    {
        { 0, 0x2D06800538D394C2 }, { 1, 0x429E81BC6744101C }, { 2, 0xA65771CBFD464C2D },
        { 3, 0x32DBB5C7774CC94F }, { 4, 0x65775238CA34C06F }, { 5, 0xD3BDEBB681920CDF },
        { 7, 0x39027A52DCBA383E }, { 8, 0x90B760C9D253D0FF }, { 9, 0x15AE9F843BB50EA4 },
        { 12, 0x8B715ECCBB8C022C }, { 15, 0x54B0978486C08A15 }, { 16, 0x372C92FA68129C98 },
        { 17, 0xB5D6B9C1898BD9D6 }, { 31, 0x79C8355E61BB90B5 }, { 32, 0x0AB1DBF9E9F8C22C },
        { 33, 0x4F4AE280E8465C3C }, { 63, 0x1F695E8F419C1EAA }, { 64, 0x84FCAC4CCE9F990D },
        { 65, 0x2C9F18DFF914A8BD }, { 95, 0xC9924A1F0459A80C }, { 96, 0xE1E1BA1B4E47DED7 },
        { 97, 0x5CC877781800CB6B }, { 112, 0xDAA88A9D4FEF52BE }, { 127, 0xC33E60B9DB382D32 },
        { 128, 0xC59E505A97D029E0 }, { 129, 0xF9E651A476D6D3CA }, { 143, 0x4916C14BD2FD8E2A },
        { 144, 0x6630FC8E0296F27F }, { 145, 0xD64FBE6A2BD5A604 }, { 160, 0x35073E7743B6B66A },
        { 192, 0xADF94AA2CEB17135 }, { 200, 0x85D691776EF97DBE }, { 239, 0x4D083AF3E4A9A1CF },
        { 240, 0x967597E635F3C527 }, { 241, 0xD6AFAC6F8FA85B01 }, { 255, 0x22062A421972FDDE },
        { 256, 0x9E6593BAB96413DA }, { 257, 0xC7F456FFF4EACA08 }, { 511, 0xF8E3FBCF89733A1A },
        { 512, 0x426B67E0356D303D }, { 513, 0xB757ECC047A39809 }, { 1023, 0x120A0457E3E899F6 },
        { 1024, 0xBB9F0C3761CDFD54 }, { 1025, 0x95EDCCC1ADC4D895 }, { 1087, 0xB954C65E909B59E2 },
        { 1088, 0xE8391A3978CBCF06 }, { 1089, 0xB6E2A9BC2973E16A }, { 2047, 0x52E24987B24854E3 },
        { 2048, 0x278F7A6A39416B51 }, { 2049, 0x644272755E8980A0 }, { 3000, 0x8489DB8CE5637D6B },
        { 4095, 0x8EB411CF06C2F821 }, { 4096, 0x436F521F6688C5ED }, { 4097, 0xA0336BC14E166395 },
        { 5000, 0x06983D4CE0939F36 },
    };

    [Theory]
    [MemberData(nameof(KnownVectors))]
    public void Hash_of_a_known_length_is_the_published_one(int length, ulong expected) =>
        Assert.Equal(expected, PageHash.Compute(Input(LongestInput + 1).AsSpan(0, length)));

    [Fact]
    public void Hashes_of_all_lengths_up_to_5000_fold_to_the_value_made_with_the_library()
    {
        byte[] input = Input(LongestInput + 1);
        ulong fold = 0;
        for (int length = 0; length <= LongestInput; length++)
            fold = BitOperations.RotateLeft(fold, 7) * 0x9E3779B97F4A7C15 + PageHash.Compute(input.AsSpan(0, length));
        Assert.Equal(0x6C3F8F4046A4B52CUL, fold);
    }

    [Fact]
    public void Scalar_and_vector_forms_agree_at_every_length_and_alignment()
    {
        byte[] input = Input(LongestInput + 64);
        for (int length = 241; length <= LongestInput; length += 7)
        {
            ReadOnlySpan<byte> bytes = input.AsSpan(length % 64, length);
            ulong scalar = PageHash.ComputeLong(bytes, PageHash.LongForm.Scalar);
            foreach (PageHash.LongForm form in Enum.GetValues<PageHash.LongForm>())
            {
                if (PageHash.Supports(form))
                    Assert.Equal(scalar, PageHash.ComputeLong(bytes, form));
            }
        }
    }

    [Fact]
    public unsafe void The_library_on_this_machine_agrees_on_random_bytes_when_there_is_one()
    {
        if (!NativeLibrary.TryLoad("libxxhash.so.0", out nint library))
        {
            // The committed vectors, made with the same library, have to do.
            Assert.NotEmpty(KnownVectors);
            return;
        }

        var hash = (delegate* unmanaged<byte*, nuint, ulong>)NativeLibrary.GetExport(library, "XXH3_64bits");
        var random = new Random(20260101);
        byte[] input = new byte[3 * LongestInput];
        random.NextBytes(input);
        for (int round = 0; round < 20_000; round++)
        {
            int length = random.Next(LongestInput + 1);
            Span<byte> bytes = input.AsSpan(random.Next(LongestInput), length);
            fixed (byte* pointer = bytes)
                Assert.Equal(hash(pointer, (nuint)length), PageHash.Compute(bytes));
        }
    }

    [Fact]
    public void Every_single_bit_of_a_page_changes_its_hash()
    {
        byte[] page = Input(GuestPage.Size);
        ulong before = PageHash.Compute(page);
        for (int bit = 0; bit < page.Length * 8; bit++)
        {
            page[bit / 8] ^= (byte)(1 << bit % 8);
            Assert.NotEqual(before, PageHash.Compute(page));
            page[bit / 8] ^= (byte)(1 << bit % 8);
        }
    }

    private static byte[] Input(int length)
    {
        byte[] bytes = new byte[length];
        uint state = 1;
        foreach (ref byte value in bytes.AsSpan())
        {
            state = state * 1664525 + 1013904223;
            value = (byte)(state >> 24);
        }

        return bytes;
    }
}
