using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance;

/// <summary>
/// Memory that a device writes and whose dirty bits are read: a tracking page table, a device behind it that can be
/// driven, and 16 pages at <see cref="CaseRun.Iova"/>, tracked in leaves of one page unless asked otherwise.
/// </summary>
internal sealed class TrackedMemory
{
    /// <summary>Where in <see cref="CaseRun.Scratch"/> the bitmap lies.</summary>
    private const ulong BitmapOffset = 0;

    private readonly CaseRun _run;

    private TrackedMemory(CaseRun run, uint hwpt, IDeviceWriter writer)
    {
        _run = run;
        Hwpt = hwpt;
        Writer = writer;
    }

    public uint Hwpt { get; }

    public IDeviceWriter Writer { get; }

    /// <param name="map">Maps what is wanted; null: all of <see cref="CaseRun.Memory"/>.</param>
    /// <param name="need">Which device; null: any tracked writer.</param>
    public static TrackedMemory Create(
        CaseRun run, bool hugePages = false, bool enable = true, Action? map = null, DeviceNeed? need = null)
    {
        BoundDevice device = run.Use(need ?? DeviceNeed.TrackedWriter);
        if (!hugePages)
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        uint hwpt = run.AllocateHwpt(device, IommuHwptAllocFlags.DirtyTracking);
        if (map is null)
            run.Map(Iova, MemoryPages * Page);
        else
            map();
        device.Attach(hwpt);
        IDeviceWriter writer = device.Test is null
            ? NvmeWriter.Start(run, device, run.Ioas) : new TestWriter(run, hwpt);
        var memory = new TrackedMemory(run, hwpt, writer);
        if (enable)
            memory.Enable();
        return memory;
    }

    public void Enable() => Set(IommuHwptSetDirtyTrackingFlags.Enable);

    public void Disable() => Set(IommuHwptSetDirtyTrackingFlags.None);

    /// <summary>Lets the device write some pages.</summary>
    public void Write(params ReadOnlySpan<ulong> pages)
    {
        foreach (ulong page in pages)
            Writer.Write(Iova + (page * Page));
    }

    /// <summary>The first 64 bits of a bitmap that begins at a page; the buffer is zeroed before.</summary>
    public ulong Read(
        ulong firstPage = 0, ulong pages = MemoryPages, ulong pageSize = Page, bool clear = true)
    {
        _run.Scratch.Words(64).Clear();
        Read(Iova + (firstPage * Page), pages * Page, pageSize, _run.ScratchAddress + BitmapOffset, clear);
        return _run.Scratch.Words(1)[0];
    }

    /// <summary>Reads into any address.</summary>
    public void Read(ulong iova, ulong byteLength, ulong pageSize, ulong address, bool clear = true)
    {
        IommuHwptGetDirtyBitmap call = IommuHwptGetDirtyBitmap.Create(
            Hwpt, iova, byteLength, pageSize, address,
            clear ? IommuHwptGetDirtyBitmapFlags.None : IommuHwptGetDirtyBitmapFlags.NoClear);
        _run.Answers(ref call, Errno.Success);
    }

    private void Set(IommuHwptSetDirtyTrackingFlags flags)
    {
        if (Writer is TestWriter test)
            test.Tracks = flags != IommuHwptSetDirtyTrackingFlags.None;
        IommuHwptSetDirtyTracking call = IommuHwptSetDirtyTracking.Create(Hwpt, flags);
        _run.Answers(ref call, Errno.Success);
    }
}
