using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// How a driver lets its device reach a buffer: the guest's DMA mapping. Without one, bus addresses are guest-physical.
/// </summary>
public interface IGuestDma
{
    /// <summary>Maps the driver's queues for as long as it lives, at addresses that do not change with a move.</summary>
    void MapQueues(GuestPhysicalAddress start, ulong byteLength);

    /// <summary>Maps a buffer for one command.</summary>
    /// <returns>Its bus address.</returns>
    ulong Map(GuestPhysicalAddress start, ulong byteLength);

    /// <summary>Takes a buffer's mapping back, after the command has completed.</summary>
    void Unmap(ulong address);
}
