using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Nvme;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Exercise;

/// <summary>
/// A device attached to an address space of its own, tracked, with a driver that lets it write where it is told.
/// </summary>
/// <remarks>
/// <code>
/// 0        queues of the driver, written by processor and device
/// 2 MiB    pages that only the device writes               first mapping, to 8 MiB
/// 8 MiB    pages that only the device writes               second mapping, to 16 MiB
/// </code>
/// </remarks>
internal sealed class ExerciseStage : IDisposable
{
    public const ulong MiB = 1UL << 20;
    public const ulong MemoryBytes = 16 * MiB;

    private static readonly TimeSpan CommandLimit = TimeSpan.FromSeconds(30);

    private readonly VfioDevice _device;
    private readonly GuestMemory _memory;
    private readonly VfioNvmeHardware _hardware;
    private readonly NvmeDriver _driver;
    private readonly DirtyBuffer _buffer;
    private ulong _nextBlock;

    /// <exception cref="KernelException">A step was refused; nothing is left behind.</exception>
    /// <exception cref="NvmeException">The device is no NVMe controller that can be driven.</exception>
    public ExerciseStage(VfioDevice device, Iommufd iommufd, GuestMemory memory, DirtyBuffer buffer, bool hugePages)
    {
        _device = device;
        _memory = memory;
        _buffer = buffer;
        Container = IommufdContainer.Create(iommufd);
        try
        {
            if (!hugePages)
                Container.Ioas.SetHugePages(false);
            Attachment = Container.Attach(device);
            Map(FirstArea);
            Map(SecondArea);
            Attachment.Entry?.Hwpt.SetDirtyTracking(Attachment.HasIommuTracking);
            ulong arena = NvmeDriver.RequiredArenaBytes(64);
            _hardware = new VfioNvmeHardware(device);
            _driver = new NvmeDriver(
                _hardware, memory, kernel: null, new NvmeDriverOptions(new GuestPhysicalAddress(0), arena) { UseInterrupts = false });
            _driver.Initialize();
        }
        catch
        {
            // In reverse; the device's own reset at closing stops what it may be doing.
            _driver?.Dispose();
            _hardware?.Dispose();
            Container.Dispose();
            throw;
        }
    }

    public static IovaRange FirstArea => IovaRange.FromLength(new Iova(0), 8 * MiB);

    public static IovaRange SecondArea => IovaRange.FromLength(new Iova(8 * MiB), 8 * MiB);

    public IommufdContainer Container { get; }

    public Attachment Attachment { get; }

    public Hwpt Hwpt => Attachment.Entry!.Hwpt;

    /// <summary>Guest pages of the driver's queues, which do not count.</summary>
    public static ulong FirstDataPage => 2 * MiB >> GuestPage.Shift;

    public void Map(IovaRange range)
    {
        MemorySlot slot = _memory.Slots[0];
        Container.Ioas.Map(
            range.First, new HostAddress(slot.Host.Value + range.First.Value), range.ByteLength, DmaAccess.ReadWrite,
            new GuestPhysicalAddress(range.First.Value));
    }

    /// <summary>Lets the device write pages, <paramref name="pagesPerRead"/> with each command, and waits for
    /// all.</summary>
    public void Write(PageRun pages, int pagesPerRead)
    {
        ulong done = Submit(pages, pagesPerRead);
        while (done < pages.Count)
        {
            AwaitAll();
            done += Submit(new PageRun(pages.FirstPage + done, pages.Count - done), pagesPerRead);
        }

        AwaitAll();
    }

    /// <summary>
    /// Lets the device write 16 bytes and nothing else: the completion of a command that has no data, into the driver's
    /// queues below <see cref="FirstDataPage"/>.
    /// </summary>
    public void WriteCompletion()
    {
        _driver.SubmitFlush(tag: 0);
        AwaitAll();
    }

    /// <summary>Begins as many of those writes as the queue takes; returns the pages that will be written.</summary>
    public ulong Submit(PageRun pages, int pagesPerRead)
    {
        NvmeNamespaceInfo disk = _driver.Namespace;
        ulong submitted = 0;
        while (submitted < pages.Count && _driver.HasRoom)
        {
            ulong count = Math.Min((ulong)pagesPerRead, pages.Count - submitted);
            uint blocks = (uint)(count * GuestPage.Size / disk.BlockByteLength);
            if (blocks == 0 || disk.BlockCount < blocks)
                throw new NvmeException($"The disk of {_device.Name} has {disk.BlockCount} blocks of {disk.BlockByteLength} bytes: too few, or too large.");
            if (_nextBlock + blocks > disk.BlockCount)
                _nextBlock = 0;
            _driver.SubmitRead(_nextBlock, blocks, new GuestPhysicalAddress((pages.FirstPage + submitted) << GuestPage.Shift), tag: 0);
            _nextBlock += blocks;
            submitted += count;
        }

        return submitted;
    }

    public void AwaitAll()
    {
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        while (_driver.OutstandingCount > 0)
        {
            while (_driver.TryComplete(out NvmeCompletion completion))
            {
                if (!completion.Status.Succeeded)
                    throw new NvmeException($"A command of {_device.Name} failed with NVMe status {completion.Status}.");
            }

            if (_driver.OutstandingCount > 0 && System.Diagnostics.Stopwatch.GetElapsedTime(start) > CommandLimit)
                throw new NvmeException($"Commands of {_device.Name} did not complete within {CommandLimit.TotalSeconds} s.");
            _driver.WaitForCompletion(TimeSpan.FromMilliseconds(10));
        }
    }

    /// <summary>The dirty data pages of a page table, read and cleared, or only looked at.</summary>
    public PageBitmap ReadDirty(Hwpt hwpt, bool clear)
    {
        var pages = new PageBitmap(MemoryBytes >> GuestPage.Shift);
        foreach (MappedArea area in hwpt.Ioas.Areas)
        {
            if (clear)
                hwpt.HarvestDirty(area, _buffer, pages);
            else
                hwpt.PeekDirty(area, _buffer, pages);
        }

        return pages;
    }

    public void Dispose()
    {
        try
        {
            _driver.Shutdown();
        }
        catch (Exception failure) when (failure is NvmeException or KernelException)
        {
            // Detaching, which follows, blocks its DMA; closing the device resets it.
        }

        _driver.Dispose();
        _hardware.Dispose();
        Container.Dispose();
    }
}
