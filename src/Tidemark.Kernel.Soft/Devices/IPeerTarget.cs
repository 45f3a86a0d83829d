namespace Tidemark.Kernel.Soft.Devices;

/// <summary>
/// A region of a device as other devices reach it: peer-to-peer DMA. Offsets are of the region, and the range is inside it.
/// </summary>
/// <remarks>
/// Called under the other device's port, from its thread: two devices may reach into each other at once, so nothing here
/// waits for a lock under which DMA is made.
/// </remarks>
internal interface IPeerTarget
{
    /// <summary>A posted write. Whoever looks at the region through its driver afterwards sees it.</summary>
    void WriteByPeer(ulong offset, ReadOnlySpan<byte> bytes);

    void ReadByPeer(ulong offset, Span<byte> into);
}
