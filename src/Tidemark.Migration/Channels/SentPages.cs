namespace Tidemark.Migration;

/// <summary>
/// What the destination has of each page, as a hash: so that a page that counts as written, and was not, is not sent
/// again.
/// </summary>
/// <remarks>
/// Pays where a source speaks of more than was written: a large leaf is one dirty unit, a device that nobody tracks
/// makes everything dirty. 8 bytes a page, taken once. Channels share it: in one pass a page belongs to one channel.
/// LIMIT: two contents of equal hash (XXH3, 64 bits) would be taken for one: once in 2^64 changes of a page. The
/// verification of a migration compares such hashes too.
/// </remarks>
internal sealed class SentPages(ulong pageCount)
{
    /// <summary>Nothing was sent, or it is not known.</summary>
    private const ulong Unknown = 0;

    private readonly ulong[] _hashes = new ulong[checked((int)pageCount)];

    /// <summary>Whether the destination has just this content; if not, it will have.</summary>
    /// <param name="hash">Of what will be sent: of a copy, not of the page.</param>
    public bool IsThere(ulong page, ulong hash)
    {
        ref ulong known = ref _hashes[(int)page];
        if (known == hash && hash != Unknown)
            return true;
        known = hash;
        return false;
    }

    /// <summary>A page of zeros is sent in another way, and not compared.</summary>
    public void Forget(ulong firstPage, ulong count) => Array.Clear(_hashes, (int)firstPage, (int)count);
}
