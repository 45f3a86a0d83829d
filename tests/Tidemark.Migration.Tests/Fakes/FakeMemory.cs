using System.Runtime.InteropServices;
using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>Guest memory in two slots with a hole between them, zero at first.</summary>
public sealed unsafe class FakeMemory : IDisposable
{
    private readonly List<(nint Address, nuint Length)> _blocks = [];

    public FakeMemory(params (ulong FirstPage, ulong PageCount)[] slots)
    {
        var made = new List<MemorySlot>();
        foreach ((ulong firstPage, ulong pageCount) in slots)
        {
            var length = (nuint)(pageCount << GuestPage.Shift);
            void* block = NativeMemory.AlignedAlloc(length, GuestPage.Size);
            NativeMemory.Clear(block, length);
            _blocks.Add(((nint)block, length));
            made.Add(new MemorySlot(
                new GuestPhysicalAddress(firstPage << GuestPage.Shift), length, new HostAddress((ulong)block), 0));
        }

        Guest = new GuestMemory(made);
    }

    public GuestMemory Guest { get; }

    public void Dispose()
    {
        foreach ((nint address, _) in _blocks)
            NativeMemory.AlignedFree((void*)address);
        _blocks.Clear();
    }
}

/// <summary>Remembers what was written through guest memory, as the write barrier of a real machine does.</summary>
public sealed class FakeDirtySource(ulong pageCount) : IDirtySource, IWriteBarrier
{
    private readonly Lock _gate = new();
    private readonly PageBitmap _dirty = new(pageCount);
    private bool _on;

    public string Name => "cpu (fake)";

    public DirtySourceKind Kind => DirtySourceKind.Cpu;

    /// <summary>Thrown by the harvest with this number, counted from 1.</summary>
    public int FailHarvest { get; set; }

    public int Harvests { get; private set; }

    public void Start()
    {
        lock (_gate)
        {
            _dirty.Clear();
            _on = true;
        }
    }

    public void Stop()
    {
        lock (_gate)
            _on = false;
    }

    /// <summary>Everything counts as written.</summary>
    public void MarkAll()
    {
        lock (_gate)
            _dirty.SetRange(0, pageCount);
    }

    public void Harvest(PageBitmap pages)
    {
        lock (_gate)
        {
            Harvests++;
            if (Harvests == FailHarvest)
                throw new InvalidOperationException("The harvest failed as planned.");
            pages.Or(_dirty);
            _dirty.Clear();
        }
    }

    public void Mark(GuestPhysicalAddress address, ulong byteLength)
    {
        lock (_gate)
        {
            if (!_on)
                return;
            ulong last = (address.Value + byteLength - 1) >> GuestPage.Shift;
            _dirty.SetRange(address.Page, last - address.Page + 1);
        }
    }
}
