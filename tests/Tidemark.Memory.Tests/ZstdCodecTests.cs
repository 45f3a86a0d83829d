using Tidemark.Memory.Codecs;

namespace Tidemark.Memory.Tests;

/// <summary>Needs the system's libzstd; without it the tests are skipped, and say so.</summary>
public sealed class ZstdCodecTests : IDisposable
{
    private const int BlockBytes = 64 << 10;

    private readonly ZstdCodec? _codec;

    public ZstdCodecTests()
    {
        bool made = ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out _codec, out string why);
        Assert.Equal(made, why.Length == 0);
        Assert.SkipUnless(made, why);
    }

    public void Dispose() => _codec?.Dispose();

    [Fact]
    public void What_was_compressed_comes_back()
    {
        var random = new Random(1);
        byte[] into = new byte[BlockBytes];
        foreach (int length in (int[])[1, 100, 4096, 4097, BlockBytes])
        {
            byte[] content = Compressible(random, length);
            int written = _codec!.Compress(content, into);
            Assert.InRange(written, 1, length < 100 ? 20 : length);
            byte[] back = new byte[length];
            Assert.True(_codec.TryDecompress(into.AsSpan(0, written), back));
            Assert.Equal(content, back);
        }
    }

    [Fact]
    public void What_does_not_fit_is_not_worth_it_and_nothing_is_written_behind_the_space()
    {
        byte[] noise = new byte[BlockBytes];
        new Random(2).NextBytes(noise);
        byte[] into = new byte[BlockBytes + 1];
        into[^10] = 77;
        Assert.Equal(0, _codec!.Compress(noise, into.AsSpan(0, BlockBytes - 9)));
        Assert.Equal(77, into[^10]);
        Assert.Equal(0, _codec.Compress(noise, []));
        Assert.Equal(0, _codec.Compress([], into));
    }

    [Fact]
    public void A_block_of_another_length_is_refused_before_anything_is_written()
    {
        byte[] frame = Frame(new Random(3), BlockBytes);
        foreach (int length in (int[])[1, BlockBytes - 1, BlockBytes + 1, 2 * BlockBytes])
        {
            byte[] into = new byte[length];
            Assert.False(_codec!.TryDecompress(frame, into));
            Assert.All(into, value => Assert.Equal(0, value));
        }

        Assert.False(_codec!.TryDecompress([], new byte[1]));
        Assert.False(_codec.TryDecompress(frame, []));
    }

    [Fact]
    public void More_than_one_frame_is_refused()
    {
        byte[] frame = Frame(new Random(4), 4096);
        byte[] skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        byte[] into = new byte[4096];
        Assert.True(_codec!.TryDecompress(frame, into));
        Assert.False(_codec.TryDecompress([.. frame, 0], into));
        Assert.False(_codec.TryDecompress([.. frame, .. frame], into));
        Assert.False(_codec.TryDecompress([.. frame, .. frame], new byte[8192]));
        Assert.False(_codec.TryDecompress([.. skippable, .. frame], into));
        Assert.False(_codec.TryDecompress([.. frame, .. skippable], into));
        Assert.False(_codec.TryDecompress(skippable, into));
    }

    [Fact]
    public void Damaged_blocks_end_in_a_refusal_or_in_bytes_inside_the_space()
    {
        const int Seed = 5;
        const int Guard = 64;
        var random = new Random(Seed);
        byte[] content = Compressible(random, 16 << 10);
        byte[] space = new byte[content.Length + 2 * Guard];
        byte[] original = new byte[content.Length];
        original = original[.._codec!.Compress(content, original)];
        int refused = 0;
        for (int round = 0; round < 20_000; round++)
        {
            byte[] frame = [.. original];
            for (int change = random.Next(1, 4); change > 0; change--)
            {
                // The head decides most, so it is hit often.
                int at = random.Next(2) == 0 ? random.Next(Math.Min(16, frame.Length)) : random.Next(frame.Length);
                switch (random.Next(4))
                {
                    case 0:
                        frame[at] ^= (byte)(1 << random.Next(8));
                        break;
                    case 1:
                        frame[at] = (byte)random.Next(256);
                        break;
                    case 2:
                        frame = frame[..Math.Max(1, at)];
                        break;
                    default:
                        frame = [.. frame[..at], .. frame[random.Next(frame.Length)..]];
                        if (frame.Length == 0)
                            frame = [0];
                        break;
                }
            }

            space.AsSpan().Fill(0xa5);
            if (!_codec.TryDecompress(frame, space.AsSpan(Guard, content.Length)))
                refused++;
            Assert.True(
                !space.AsSpan(0, Guard).ContainsAnyExcept((byte)0xa5) && !space.AsSpan(Guard + content.Length).ContainsAnyExcept((byte)0xa5),
                $"Seed {Seed}, round {round}: bytes outside the space were written.");
        }

        Assert.InRange(refused, 10_000, 20_000);
        // The context has survived them all.
        Assert.True(_codec.TryDecompress(original, space.AsSpan(Guard, content.Length)));
        Assert.Equal(content, space.AsSpan(Guard, content.Length).ToArray());
    }

    [Fact]
    public void A_level_that_does_not_exist_is_refused_with_the_reason()
    {
        Assert.False(ZstdCodec.TryCreate(1000, out ZstdCodec? codec, out string why));
        Assert.Null(codec);
        Assert.Contains("1000", why, StringComparison.Ordinal);
    }

    [Fact]
    public void A_library_that_is_not_there_or_is_another_one_is_refused_with_the_reason()
    {
        Assert.Null(ZstdLibrary.TryLoad(out string why, "libtidemark-nowhere.so.1"));
        Assert.Contains("libtidemark-nowhere.so.1", why, StringComparison.Ordinal);
        Assert.Null(ZstdLibrary.TryLoad(out why, "libc.so.6"));
        Assert.Contains("ZSTD_", why, StringComparison.Ordinal);
    }

    [Fact]
    public void A_disposed_codec_says_so()
    {
        _codec!.Dispose();
        _codec.Dispose();
        Assert.Throws<ObjectDisposedException>(() => _codec.Compress(new byte[1], new byte[100]));
        Assert.Throws<ObjectDisposedException>(() => _codec.TryDecompress(new byte[1], new byte[100]));
    }

    [Fact]
    public void Nothing_is_allocated_for_a_block()
    {
        byte[] content = Compressible(new Random(6), BlockBytes);
        byte[] into = new byte[BlockBytes];
        byte[] back = new byte[BlockBytes];
        _codec!.TryDecompress(into.AsSpan(0, _codec.Compress(content, into)), back);
        long before = GC.GetAllocatedBytesForCurrentThread();
        _codec.TryDecompress(into.AsSpan(0, _codec.Compress(content, into)), back);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private byte[] Frame(Random random, int length)
    {
        byte[] into = new byte[length];
        return into[.._codec!.Compress(Compressible(random, length), into)];
    }

    private static byte[] Compressible(Random random, int length)
    {
        byte[] content = new byte[length];
        for (int at = 0; at < length; at++)
            content[at] = (byte)(at % 64 < 8 ? random.Next(256) : at / 100);
        return content;
    }
}
