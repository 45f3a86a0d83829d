namespace Tidemark.Nvme;

/// <summary>
/// Physical region pages: how a transfer is spread over PRP1, PRP2 and lists. NVM Express 1.4 section 4.3.
/// </summary>
/// <remarks>
/// <code>
/// bytes end in the first page                  PRP1
/// bytes end in the second page                 PRP1, PRP2 = second page
/// longer                                       PRP1, PRP2 = list of the second and all further pages; when a list
///                                              page is full and more remain, its last entry is the next list page
/// </code>
/// </remarks>
public static class PrpGeometry
{
    public const int PageShift = 12;

    public const int PageByteLength = 1 << PageShift;

    public const int EntryByteLength = 8;

    /// <summary>Entries of a list that begins at the start of a page.</summary>
    public const int EntriesPerPage = PageByteLength / EntryByteLength;

    /// <summary>
    /// Memory pages that a transfer touches: 1 for PRP1 alone, 2 with PRP2 as a page, more with a list.
    /// </summary>
    public static uint CountPages(ulong prp1, uint byteLength) =>
        (uint)(((prp1 & (PageByteLength - 1)) + byteLength + PageByteLength - 1) >> PageShift);

    /// <summary>Entries from a list pointer to the end of its page.</summary>
    public static uint EntriesFrom(ulong listPointer) =>
        (uint)(PageByteLength - (listPointer & (PageByteLength - 1))) / EntryByteLength;
}
