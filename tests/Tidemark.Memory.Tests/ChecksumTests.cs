namespace Tidemark.Memory.Tests;

/// <summary>CRC-32C against its definition, bit by bit.</summary>
public sealed class ChecksumTests
{
    /// <summary>The check value that catalogues of CRCs give for it, and one of RFC 3720, appendix B.4.</summary>
    [Fact]
    public void Published_values_come_out()
    {
        Assert.Equal(0xE306_9283, Checksum.Crc32C("123456789"u8));
        Assert.Equal(0x8A91_36AAu, Checksum.Crc32C(new byte[32]));
    }

    /// <summary>Around every length where the way to compute it changes, and that of the longest frame.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(7)]
    [InlineData((16 << 10) - 1)]
    [InlineData(16 << 10)]
    [InlineData((16 << 10) + 1)]
    [InlineData((16 << 10) + 23)]
    [InlineData((1 << 20) + 16)]
    public void Every_length_is_as_defined(int length)
    {
        byte[] bytes = new byte[length];
        new Random(length).NextBytes(bytes);
        Assert.Equal(BitByBit(bytes), Checksum.Crc32C(bytes));
    }

    private static uint BitByBit(ReadOnlySpan<byte> bytes)
    {
        uint crc = uint.MaxValue;
        foreach (byte value in bytes)
        {
            crc ^= value;
            for (int bit = 0; bit < 8; bit++)
                crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1;
        }

        return ~crc;
    }
}
