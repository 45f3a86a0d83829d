namespace Tidemark.Memory.Tests;

public sealed class PageKernelsTests
{
    public delegate bool ZeroTest(ReadOnlySpan<byte> bytes);

    public static TheoryData<string> Forms => new() { "chosen", "512", "256" };

    [Theory]
    [MemberData(nameof(Forms))]
    public void A_page_with_one_byte_set_is_not_zero_wherever_the_byte_is(string form)
    {
        ZeroTest isZero = Form(form);
        byte[] page = new byte[GuestPage.Size];
        Assert.True(isZero(page));
        for (int position = 0; position < page.Length; position++)
        {
            page[position] = 0x80;
            Assert.False(isZero(page), $"Byte {position} was overlooked.");
            page[position] = 0;
        }
    }

    [Theory]
    [MemberData(nameof(Forms))]
    public void Bytes_around_the_tested_ones_do_not_count_at_any_length(string form)
    {
        ZeroTest isZero = Form(form);
        for (int length = form == "chosen" ? 0 : 256; length <= 1100; length++)
        {
            byte[] bytes = new byte[length + 2];
            bytes[0] = 1;
            bytes[^1] = 1;
            Span<byte> inner = bytes.AsSpan(1, length);
            Assert.True(isZero(inner));
            foreach (int position in (int[])[0, length / 2, length - 1])
            {
                if (length == 0)
                    continue;
                inner[position] = 1;
                Assert.False(isZero(inner));
                inner[position] = 0;
            }
        }
    }

    private static ZeroTest Form(string form) => form switch
    {
        "512" => PageKernels.IsZero512,
        "256" => PageKernels.IsZero256,
        _ => PageKernels.IsZero,
    };
}
