namespace Tidemark.Kernel.Soft.Devices;

/// <summary>
/// A device's way to memory: through its IOMMU. All addresses are IOVAs. One device thread at a time uses a port.
/// </summary>
/// <remarks>
/// As in hardware: a write is translated (which sets the page table's accessed and dirty bits) and then posted; the
/// store lands later, in order. A read, an interrupt and <see cref="Drain"/> push earlier writes out first.
/// Invalidating the IOTLB drains too, and that is what makes clearing dirty bits safe.
/// </remarks>
internal interface IDmaPort
{
    /// <summary>
    /// Posts a write. May cross pages. False: no translation or no permission somewhere in the range; the part before
    /// the fault is posted.
    /// </summary>
    bool TryWrite(ulong iova, ReadOnlySpan<byte> bytes);

    /// <summary>
    /// Reads, after all posted writes have landed. False: no translation or no permission; the buffer's content is then
    /// undefined.
    /// </summary>
    bool TryRead(ulong iova, Span<byte> into);

    /// <summary>Returns when every posted write has landed.</summary>
    void Drain();

    /// <summary>
    /// Sees each range of IOVAs that is written, before the write is posted; or null. The device's own DMA log.
    /// </summary>
    IDmaWriteObserver? WriteObserver { get; set; }
}

/// <summary>Told of DMA writes. Called under the port's lock; must be quick.</summary>
internal interface IDmaWriteObserver
{
    void OnWrite(ulong iova, ulong byteLength);
}
