using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Vfio;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// An NVMe function behind VFIO: registers by calls, because a store to a doorbell in a mapping would not reach a
/// device that lives in this process; the controller's memory through a mapping where the region offers one.
/// </summary>
public sealed class VfioNvmeHardware : INvmeHardware, IDisposable
{
    private readonly VfioDevice _device;
    private readonly VfioRegion _bar;
    private readonly VfioRegion _config;
    private readonly List<(uint Bar, RegionArea Area, Mapping Mapping)> _mapped = [];
    private VfioRegion? _memory;

    /// <exception cref="KernelException">The device has no BAR0 or no configuration space.</exception>
    public VfioNvmeHardware(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        _bar = device.GetRegion((uint)VfioPciRegionIndex.Bar0);
        _config = device.GetRegion((uint)VfioPciRegionIndex.Config);
    }

    public uint ReadRegister32(ulong offset) => _bar.Read32(offset);

    public ulong ReadRegister64(ulong offset) => _bar.Read64(offset);

    public void WriteRegister32(ulong offset, uint value) => _bar.Write32(offset, value);

    public void WriteRegister64(ulong offset, ulong value) => _bar.Write64(offset, value);

    public void WriteControllerMemory(uint bar, ulong offset, ReadOnlySpan<byte> bytes)
    {
        if (_memory is null || _memory.Index != bar)
            _memory = bar == _bar.Index ? _bar : _device.GetRegion(bar);
        ulong end = offset + (ulong)bytes.Length;
        foreach (RegionArea area in _memory.MapAreas)
        {
            if (offset < area.Offset || end > area.Offset + area.ByteLength)
                continue;
            bytes.CopyTo(Map(_memory, area).Bytes(offset - area.Offset, bytes.Length));
            // ORDER: the doorbell that follows is a system call, so these stores are visible before it.
            Thread.MemoryBarrier();
            return;
        }

        _memory.Write(offset, bytes);
    }

    public void ReadConfig(ulong offset, Span<byte> into) => _config.Read(offset, into);

    public void WriteConfig(ulong offset, ReadOnlySpan<byte> from) => _config.Write(offset, from);

    public void EnableInterrupts(IReadOnlyList<KernelFd> eventfds)
    {
        ArgumentNullException.ThrowIfNull(eventfds);
        _device.SetTriggers((uint)VfioPciIrqIndex.Msix, 0, [.. eventfds.Select(eventfd => eventfd.Number)]);
    }

    public void DisableInterrupts() => _device.DisableAll((uint)VfioPciIrqIndex.Msix);

    public void Dispose()
    {
        foreach ((_, _, Mapping mapping) in _mapped)
            mapping.Dispose();
        _mapped.Clear();
    }

    private Mapping Map(VfioRegion region, RegionArea wanted)
    {
        foreach ((uint bar, RegionArea area, Mapping mapping) in _mapped)
        {
            if (bar == region.Index && area == wanted)
                return mapping;
        }

        Mapping created = region.MapArea(wanted);
        _mapped.Add((region.Index, wanted, created));
        return created;
    }
}
