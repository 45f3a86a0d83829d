namespace Tidemark.Kernel.Soft.Paging;

internal sealed partial class DevicePort
{
    private static unsafe void Store(ulong hostAddress, ReadOnlySpan<byte> bytes)
    {
        // SAFETY: the address was translated inside one page of a pinned memory object, through the twin's own mapping.
        // Unmapping drains this port before it unpins.
        bytes.CopyTo(new Span<byte>((void*)hostAddress, bytes.Length));
        // ORDER: posted writes become visible in their order; a completion entry must not overtake its data.
        Volatile.WriteBarrier();
    }

    private static unsafe void Load(ulong hostAddress, Span<byte> into) =>
        // SAFETY: as above; the port's lock is held since the translation.
        new ReadOnlySpan<byte>((void*)hostAddress, into.Length).CopyTo(into);
}
