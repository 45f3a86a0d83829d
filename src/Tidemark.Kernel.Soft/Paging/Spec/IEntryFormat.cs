namespace Tidemark.Kernel.Soft.Paging;

/// <summary>What a leaf allows, and what is asked of it.</summary>
[Flags]
internal enum LeafAttributes
{
    None = 0,
    Read = 1,
    Write = 2,

    /// <summary>The table was made for dirty tracking.</summary>
    Tracked = 4,

    /// <summary>Accesses snoop the processor's caches.</summary>
    Snoop = 8,
}

/// <summary>
/// The 64-bit entries of a page-table layout. A level's entry covers <c>2^(GranuleShift + 9 * level)</c> bytes; a leaf
/// may be several equal entries side by side (replicas).
/// </summary>
/// <remarks>Static members of a type argument: the compiler makes a table class of its own for each layout.</remarks>
internal interface IEntryFormat
{
    /// <summary>log2 of the bytes that a level 0 entry covers.</summary>
    static abstract int GranuleShift { get; }

    /// <summary>A bit for each size that a leaf can have.</summary>
    static abstract ulong LeafSizes { get; }

    /// <summary>Whether leaves can be replicas.</summary>
    static abstract bool HasReplicas { get; }

    /// <summary>
    /// Whether the table's owner switches tracking on and off. If not, tables made for tracking always track.
    /// </summary>
    static abstract bool SwitchesTracking { get; }

    static abstract bool IsPresent(ulong entry);

    /// <summary>Of a present entry.</summary>
    static abstract bool IsLeaf(ulong entry, int level);

    /// <summary>An entry of a level that points to a table of the level below.</summary>
    static abstract ulong TableEntry(ulong physical, int level);

    static abstract ulong TableAddress(ulong entry);

    /// <summary>The entry, or each replica, of a leaf of <c>2^sizeShift</c> bytes in tables of a level.</summary>
    static abstract ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes);

    /// <summary>log2 of the bytes of the leaf.</summary>
    static abstract int LeafShift(ulong entry, int level);

    /// <summary>Physical address at which the leaf begins.</summary>
    static abstract ulong LeafAddress(ulong entry, int level);

    static abstract bool Permits(ulong entry, bool write);

    static abstract bool IsDirty(ulong entry);

    /// <summary>With the dirty state and nothing else.</summary>
    static abstract ulong Dirtied(ulong entry);

    /// <summary>What tracking hardware makes of the entry for a permitted access.</summary>
    static abstract ulong AfterAccess(ulong entry, bool write);

    /// <summary>Takes the dirty state back, whatever a walker does meanwhile.</summary>
    static abstract void Clean(ref ulong slot);
}
