namespace Tidemark.Memory;

/// <summary>What kind of observer a dirty source is. The order is the order in which reports list them.</summary>
public enum DirtySourceKind
{
    /// <summary>Writes by processors (or by the workload that stands in for them).</summary>
    Cpu,

    /// <summary>DMA, from the dirty bits of an IOMMU's page table (a HWPT).</summary>
    Iommu,

    /// <summary>DMA, from the bitmaps of a type1 container (the legacy interface).</summary>
    Type1,

    /// <summary>DMA, from the device's own log.</summary>
    DeviceLog,

    /// <summary>Nobody tracks this writer: everything it can reach counts as written, at each harvest.</summary>
    Assumed,

    /// <summary>
    /// DMA through mappings, or by devices, that were taken away since the last harvest; and what counts as written
    /// because a device came, or lost its log in a reset.
    /// </summary>
    Changes,
}

/// <summary>
/// One observer of writes to guest memory. The union of all sources, and only the union, says what was written.
/// </summary>
/// <remarks>
/// Harvesting is destructive: bits handed out are gone from the source. So whoever harvests keeps them in a
/// <see cref="DirtyLease"/> until they are no longer needed.
/// Not safe for concurrent use; <see cref="DirtyTracker"/> serialises.
/// </remarks>
public interface IDirtySource
{
    /// <summary>A name a user can relate to a device, for instance <c>nvme0 (iommu)</c>.</summary>
    string Name { get; }

    DirtySourceKind Kind { get; }

    /// <summary>Begins tracking. On failure (an exception) this source is off, as before the call.</summary>
    void Start();

    /// <summary>
    /// Ends tracking. Never turns tracking on, also when it fails; a failure is an exception, and the source counts as
    /// stopped all the same. Idempotent.
    /// </summary>
    void Stop();

    /// <summary>
    /// Reads and clears: sets in <paramref name="pages"/> the bit of each guest page written since the last harvest
    /// (or since <see cref="Start"/>), and leaves other bits as they are.
    /// A write that completes after the call returns is seen by the next harvest.
    /// On failure (an exception) bits already taken are in <paramref name="pages"/>; none is lost.
    /// </summary>
    /// <param name="pages">One bit for each guest page, by guest-physical page number.</param>
    void Harvest(PageBitmap pages);
}
