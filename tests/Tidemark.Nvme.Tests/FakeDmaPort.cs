using System.Runtime.InteropServices;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Memory;

namespace Tidemark.Nvme.Tests;

/// <summary>Guest memory of a test: native, page aligned, from guest-physical 0.</summary>
internal sealed unsafe class TestMemory : IDisposable
{
    private void* _bytes;

    public TestMemory(int byteLength)
    {
        _bytes = NativeMemory.AlignedAlloc((nuint)byteLength, 4096);
        NativeMemory.Clear(_bytes, (nuint)byteLength);
        Guest = new GuestMemory([new MemorySlot(new(0), (ulong)byteLength, new((ulong)_bytes), 0)]);
    }

    public GuestMemory Guest { get; }

    public byte[] Read(ulong address, int byteLength)
    {
        byte[] bytes = new byte[byteLength];
        Guest.Read(new(address), bytes);
        return bytes;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_bytes);
        _bytes = null;
    }
}

/// <summary>
/// A port without an IOMMU: IOVA equals guest-physical address. Writes stay posted until they are pushed, so that a
/// device that forgets to push them is caught. Checks that only one thread at a time uses it.
/// </summary>
internal sealed class FakeDmaPort(GuestMemory memory) : IDmaPort
{
    private readonly Queue<(ulong Iova, byte[] Bytes)> _posted = new();
    private int _inside;

    public IDmaWriteObserver? WriteObserver { get; set; }

    /// <summary>Writes and reads of this page number fail.</summary>
    public ulong FaultPage { get; set; } = ulong.MaxValue;

    public int PostedCount => _posted.Count;

    public bool Overlapped { get; private set; }

    /// <summary>Bytes of data written, completions not counted.</summary>
    public long WriteCount { get; private set; }

    public bool TryWrite(ulong iova, ReadOnlySpan<byte> bytes)
    {
        Enter();
        bool good = IsGood(iova, bytes.Length);
        if (good)
        {
            WriteObserver?.OnWrite(iova, (ulong)bytes.Length);
            _posted.Enqueue((iova, bytes.ToArray()));
            WriteCount++;
        }

        Leave();
        return good;
    }

    public bool TryRead(ulong iova, Span<byte> into)
    {
        Enter();
        Land();
        bool good = IsGood(iova, into.Length);
        if (good)
            memory.Read(new(iova), into);
        Leave();
        return good;
    }

    public void Drain()
    {
        Enter();
        Land();
        Leave();
    }

    private bool IsGood(ulong iova, int byteLength) =>
        memory.FindSlot(new(iova), (ulong)byteLength) is not null
        && (iova >> 12 > FaultPage || (iova + (ulong)byteLength - 1) >> 12 < FaultPage);

    private void Land()
    {
        while (_posted.TryDequeue(out (ulong Iova, byte[] Bytes) write))
            memory.Write(new(write.Iova), write.Bytes);
    }

    private void Enter() => Overlapped |= Interlocked.Exchange(ref _inside, 1) != 0;

    private void Leave() => Interlocked.Exchange(ref _inside, 0);
}
