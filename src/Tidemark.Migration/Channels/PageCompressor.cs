using Tidemark.Memory.Codecs;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>Compresses blocks of pages for one channel, when that pays. One thread.</summary>
/// <param name="always">Whatever it costs: for tests and for links that are paid by the byte.</param>
internal sealed class PageCompressor(IPageCodec codec, bool always, TimeProvider time) : IDisposable
{
    // LIMIT: what is not made smaller by a sixteenth goes out as it is.
    private readonly byte[] _packed =
        GC.AllocateUninitializedArray<byte>(FrameLimits.ContentPages * Memory.GuestPage.Size * 15 / 16);

    private readonly CompressionGovernor _governor = new();
    private TimeSpan _compression;
    private long _mark;
    private bool _tried;

    /// <summary>Whether the next block should be tried at all; if not, it goes out without being copied. Also begins to
    /// take the time of the block.</summary>
    public bool Wants()
    {
        _mark = time.GetTimestamp();
        _tried = false;
        return always || _governor.ShouldCompress();
    }

    /// <param name="packed">Valid until the next call.</param>
    /// <returns>False: the block goes out as it is.</returns>
    public bool TryCompress(ReadOnlySpan<byte> content, out ReadOnlySpan<byte> packed)
    {
        long start = time.GetTimestamp();
        int limit = content.Length * 15 / 16;
        int length = codec.Compress(content, _packed.AsSpan(0, limit));
        _compression = time.GetElapsedTime(start);
        _tried = true;
        packed = _packed.AsSpan(0, length);
        return length > 0;
    }

    /// <summary>The block is out.</summary>
    public void Sent(int contentBytes, int sentBytes)
    {
        TimeSpan took = time.GetElapsedTime(_mark);
        if (_tried)
            _governor.SentCompressed(contentBytes, sentBytes, _compression, took);
        else
            _governor.SentRaw(contentBytes, took);
    }

    public void Dispose() => codec.Dispose();
}

/// <summary>How pages are compressed.</summary>
public enum Compression
{
    /// <summary>Not at all.</summary>
    Off,

    /// <summary>Where it is measured to pay, block by block.</summary>
    Auto,

    /// <summary>Every block that becomes smaller, whatever it costs.</summary>
    Always,
}
