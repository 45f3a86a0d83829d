namespace Tidemark.Memory.Codecs;

/// <summary>Makes blocks of page content smaller and restores them. One instance serves one thread at a time.</summary>
public interface IPageCodec : IDisposable
{
    /// <summary>What both sides of a migration call it.</summary>
    string Name { get; }

    /// <summary>
    /// Compresses a block of its own. The content must not change meanwhile: guest memory is copied first.
    /// </summary>
    /// <param name="into">As long as the result may be to be worth it.</param>
    /// <returns>Bytes written; 0 when the result is not worth it, and what was written is of no consequence.</returns>
    int Compress(ReadOnlySpan<byte> content, Span<byte> into);

    /// <summary>
    /// Restores a block. What it gets may come from an enemy: nothing past the two spans is touched, and no memory is
    /// taken that depends on it.
    /// </summary>
    /// <param name="compressed">One block as <see cref="Compress"/> wrote it, all of it and nothing else.</param>
    /// <param name="exactly">As long as the content was.</param>
    /// <returns>False when it is no such block, or one of another length; then what was written is of no
    /// consequence.</returns>
    bool TryDecompress(ReadOnlySpan<byte> compressed, Span<byte> exactly);
}
