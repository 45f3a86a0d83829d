namespace Tidemark.Migration;

/// <summary>Compresses blocks of pages for one channel, when that pays. One thread.</summary>
internal abstract class PageCompressor : IDisposable
{
    /// <summary>Whether the next block should be tried at all; if not, it goes out without being copied.</summary>
    public abstract bool Wants { get; }

    /// <param name="packed">Valid until the next call.</param>
    /// <returns>False: the block goes out as it is.</returns>
    public abstract bool TryCompress(ReadOnlySpan<byte> content, out ReadOnlySpan<byte> packed);

    public abstract void Dispose();
}
