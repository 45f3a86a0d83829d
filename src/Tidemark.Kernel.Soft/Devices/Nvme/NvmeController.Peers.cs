using System.Buffers.Binary;
using System.Collections.Concurrent;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>The BARs as other devices reach them.</summary>
internal sealed partial class NvmeController
{
    /// <summary>LIMIT: register writes of other devices that wait; later ones are lost, as after a link's timeout.</summary>
    private const int MostPeerWrites = 1024;

    private readonly ConcurrentQueue<(ulong Offset, byte[] Bytes)> _peerWrites = new();

    public override IPeerTarget? PeerOf(uint region) =>
        Regions[(int)region].ByteLength == 0 ? null : new PeerRegion(this, region);

    private void WriteByPeer(uint region, ulong offset, ReadOnlySpan<byte> bytes)
    {
        if (region == NvmeBar.ControllerMemoryRegion)
        {
            FileBytes.Write(_host, _controllerMemory, offset, bytes);
            return;
        }

        if (bytes.Length == sizeof(uint) && offset / GuestPage.Size == NvmeBar.Doorbells / GuestPage.Size)
        {
            RingDoorbell(offset - NvmeBar.Doorbells, BinaryPrimitives.ReadUInt32LittleEndian(bytes));
            return;
        }

        if (_peerWrites.Count >= MostPeerWrites)
            return;
        _peerWrites.Enqueue((offset, bytes.ToArray()));
        // ORDER: queued before it is seen whether the worker sleeps; it says that it will before it looks.
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _asleep) != 0)
            _wake.Set();
    }

    private void ReadByPeer(uint region, ulong offset, Span<byte> into)
    {
        if (region == NvmeBar.ControllerMemoryRegion)
        {
            FileBytes.Read(_host, _controllerMemory, offset, into, NvmeBar.ControllerMemoryByteLength);
            return;
        }

        // Registers are read one by one while the controller works, as on a bus. What was written before is seen unless
        // the controller is at a step of its own, which may be waiting for the very device that reads.
        bool held = _gate.TryEnter();
        try
        {
            if (held)
                TakePeerWrites();
            ReadBar(offset, into);
        }
        finally
        {
            if (held)
                _gate.Exit();
        }
    }

    /// <summary>Under the gate.</summary>
    private void TakePeerWrites()
    {
        while (_peerWrites.TryDequeue(out (ulong Offset, byte[] Bytes) write))
        {
            if (_config.MemoryEnabled)
                WriteBar(write.Offset, write.Bytes);
        }
    }

    private sealed class PeerRegion(NvmeController controller, uint region) : IPeerTarget
    {
        public void WriteByPeer(ulong offset, ReadOnlySpan<byte> bytes) => controller.WriteByPeer(region, offset, bytes);

        public void ReadByPeer(ulong offset, Span<byte> into) => controller.ReadByPeer(region, offset, into);
    }
}
