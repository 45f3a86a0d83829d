using Tidemark.Machine.Nvme;
using Tidemark.Memory;

namespace Tidemark.Machine.Viommu;

/// <summary>
/// A guest that gives a device only what it needs at the moment: each command's buffer gets a mapping of its own at an
/// IOVA that is used for something else soon after. What Linux guests do with <c>iommu.strict=1</c>.
/// </summary>
/// <remarks>
/// <code>
/// IOVA   64 GiB           65 GiB ............ 66 GiB
///        | queues         | buffers, round and round |
/// </code>
/// Nothing lies where guest memory is, so that a driver or a device that confuses the two addresses is found.
/// </remarks>
internal sealed class StrictDma(GuestIommuEndpoint endpoint) : IGuestDma
{
    /// <summary>Where the queues are; what the driver adds to a guest-physical address follows from it.</summary>
    public const ulong QueueStart = 64UL << 30;

    private const ulong BufferStart = QueueStart + (1UL << 30);
    private const ulong BufferLength = 1UL << 30;

    private ulong? _next;

    public void MapQueues(GuestPhysicalAddress start, ulong byteLength)
    {
        if (endpoint.Mode != EndpointMode.Translated)
            endpoint.SetMode(EndpointMode.Translated);
        // It moves with the machine; a controller that is set up again finds it.
        if (endpoint.Mappings.Any(mapping => mapping.Iova.Value == QueueStart))
            return;
        endpoint.Map(new Iova(QueueStart), start, byteLength);
    }

    public ulong Map(GuestPhysicalAddress start, ulong byteLength)
    {
        ulong at = _next ?? FindEnd();
        // Large enough a circle that what is in flight is never met; should it be, the host answers EEXIST.
        if (at + byteLength > BufferLength)
            at = 0;
        endpoint.Map(new Iova(BufferStart + at), start, byteLength);
        _next = at + byteLength;
        return BufferStart + at;
    }

    public void Unmap(ulong address) => endpoint.Unmap(new Iova(address));

    /// <summary>Behind the highest mapping that moved here.</summary>
    private ulong FindEnd() => endpoint.Mappings
        .Where(mapping => mapping.Iova.Value >= BufferStart)
        .Select(mapping => mapping.Iova.Value + mapping.ByteLength - BufferStart)
        .DefaultIfEmpty(0UL).Max();
}
