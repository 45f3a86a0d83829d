using System.Text.Json;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>
/// How fast the soft kernel's IOMMU is: DMA through the table walk, against copying the same bytes; reading dirty bits of
/// a clean tebibyte, against reading its table's memory.
/// </summary>
internal static unsafe class SoftBench
{
    private const int Rounds = 21;
    private const ulong Page = GuestPage.Size;

    /// <summary>16 times what the IOTLB reaches: in order of address, every page is walked for.</summary>
    private const ulong DmaBytes = 64UL << 20;
    private const ulong DmaTarget = 1_000_000_000;

    private const ulong Tebibyte = 1UL << 40;
    private const ulong LargeLeaf = 2UL << 20;
    private const ulong TableBytes = Tebibyte / LargeLeaf * sizeof(ulong);
    private const double HarvestTarget = 0.1;

    private const ulong Iova = 1UL << 32;
    private const IommuIoasMapFlags Fixed =
        IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable;

    private static ulong s_sink;

    internal static int Run(bool json)
    {
        using var rig = new Rig();
        (Series dma, Series copy) = MeasureDma(rig);
        (Series harvest, Series read) = MeasureHarvest(rig);
        double harvestSeconds = TableBytes / harvest.Median;
        bool met = dma.Median >= DmaTarget && harvestSeconds < HarvestTarget;
        if (json)
            WriteJson(rig.Kernel.Identity, dma, copy, harvest, read);
        else
            WriteText(rig.Kernel.Identity, dma, copy, harvest, read);
        return met ? 0 : 1;
    }

    private static (Series Dma, Series Copy) MeasureDma(Rig rig)
    {
        // Leaves of 4 KiB: what tracks best and costs most.
        (uint ioas, uint hwpt) = rig.Attach(largeLeaves: false);
        using Mapping memory = Mapping.CreateAnonymous(rig.Kernel, DmaBytes);
        rig.Kernel.Madvise(memory.Address.Value, DmaBytes, MemoryAdvice.PopulateWrite);
        var map = IommuIoasMap.Create(ioas, Iova, memory.Address.Value, DmaBytes, Fixed);
        rig.Call(ref map);
        using Mapping bitmap = Mapping.CreateAnonymous(rig.Kernel, DmaBytes / Page / 8);
        using Mapping plain = Mapping.CreateAnonymous(rig.Kernel, DmaBytes);
        rig.Kernel.Madvise(plain.Address.Value, DmaBytes, MemoryAdvice.PopulateWrite);
        byte[] source = new byte[Page];
        var dma = new Series("DMA, 4 KiB writes, every page walked and marked", DmaBytes, () =>
        {
            // Clean, so that each walk sets its dirty bit; part of the measured time.
            rig.Harvest(hwpt, Iova, DmaBytes, bitmap.Address.Value);
            for (ulong at = 0; at < DmaBytes; at += Page)
            {
                if (!rig.Port.TryWrite(Iova + at, source))
                    throw new InvalidOperationException($"DMA to 0x{Iova + at:x} failed.");
            }

            rig.Port.Drain();
        });
        var copy = new Series("copies of 4 KiB", DmaBytes, () =>
        {
            var into = new Span<byte>((void*)plain.Address.Value, (int)DmaBytes);
            for (int at = 0; at < (int)DmaBytes; at += (int)Page)
                source.CopyTo(into[at..]);
        });
        Series.RunInterleaved(Rounds, dma, copy);
        rig.Detach();
        return (dma, copy);
    }

    private static (Series Harvest, Series Read) MeasureHarvest(Rig rig)
    {
        (uint ioas, uint hwpt) = rig.Attach(largeLeaves: true);
        using var file = new KernelFd(
            rig.Kernel, (int)rig.Kernel.MemfdCreate("tidemark bench", MemfdFlags.CloseOnExec).Value);
        Check(rig.Kernel.Ftruncate(file.Number, Tebibyte).Errno, "making a file of 1 TiB");
        // 2 MiB off the alignment of the file, so that no leaf is larger.
        const ulong Start = Tebibyte + LargeLeaf;
        var map = IommuIoasMapFile.Create(ioas, Start, file.Number, 0, Tebibyte, Fixed);
        rig.Call(ref map);
        using Mapping bitmap = Mapping.CreateAnonymous(rig.Kernel, Tebibyte / Page / 8);
        using Mapping plain = Mapping.CreateAnonymous(rig.Kernel, TableBytes);
        rig.Kernel.Madvise(plain.Address.Value, TableBytes, MemoryAdvice.PopulateWrite);
        byte* bytes = (byte*)plain.Address.Value;
        var harvest = new Series("dirty bits of a clean 1 TiB in leaves of 2 MiB", TableBytes, () =>
            rig.Harvest(hwpt, Start, Tebibyte, bitmap.Address.Value));
        var read = new Series("read, 4 MiB of table", TableBytes, () => s_sink += ReadBandwidth.Sweep(bytes, TableBytes));
        Series.RunInterleaved(Rounds, harvest, read);
        rig.Detach();
        return (harvest, read);
    }

    private static void WriteText(KernelIdentity identity, Series dma, Series copy, Series harvest, Series read)
    {
        Console.WriteLine($"kernel={identity}  rounds={Rounds}, interleaved; median (range)");
        (double median, double minimum, double maximum) = dma.RatioTo(copy);
        Console.WriteLine(
            $"{dma.Name}: {Speed(dma)}  copy {Speed(copy)}  ratio {median:0.00} ({minimum:0.00}-{maximum:0.00})"
            + $"  target 1.0 GB/s {(dma.Median >= DmaTarget ? "met" : "MISSED")}");
        (median, minimum, maximum) = harvest.RatioTo(read);
        double seconds = TableBytes / harvest.Median;
        Console.WriteLine(
            $"{harvest.Name}: {seconds * 1e3:0.00} ms ({TableBytes / harvest.Maximum * 1e3:0.00}"
            + $"-{TableBytes / harvest.Minimum * 1e3:0.00})  read {TableBytes / read.Median * 1e3:0.00} ms"
            + $"  ratio {median:0.00} ({minimum:0.00}-{maximum:0.00})"
            + $"  target 100 ms {(seconds < HarvestTarget ? "met" : "MISSED")}");
    }

    private static string Speed(Series series) =>
        $"{series.Median / 1e9:0.0} GB/s ({series.Minimum / 1e9:0.0}-{series.Maximum / 1e9:0.0})";

    private static void WriteJson(KernelIdentity identity, Series dma, Series copy, Series harvest, Series read)
    {
        using (var writer = new Utf8JsonWriter(
            Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true }))
        {
            writer.WriteStartObject();
            writer.WriteString("kernel", identity.ToString());
            writer.WriteNumber("rounds", Rounds);
            writer.WriteNumber("dmaBytesPerSecond", Math.Round(dma.Median));
            writer.WriteNumber("copyBytesPerSecond", Math.Round(copy.Median));
            writer.WriteNumber("dmaRatio", Math.Round(dma.RatioTo(copy).Median, 3));
            writer.WriteNumber("harvestSeconds", TableBytes / harvest.Median);
            writer.WriteNumber("readSeconds", TableBytes / read.Median);
            writer.WriteNumber("harvestRatio", Math.Round(harvest.RatioTo(read).Median, 3));
            writer.WriteEndObject();
        }

        Console.WriteLine();
    }

    private static void Check(Errno errno, string what)
    {
        if (errno != Errno.Success)
            throw new InvalidOperationException($"The soft kernel answered {errno} to {what}.");
    }

    /// <summary>A soft kernel with one device behind an IOMMU that tracks.</summary>
    private sealed class Rig : IDisposable
    {
        private const string Address = "0000:01:00.0";
        private readonly KernelFd _iommufd;
        private readonly IBoundDevice _device;

        public Rig()
        {
            Kernel = new SoftKernel(
                new LinuxKernel(),
                new SoftHost(
                    [new SoftIommuUnit("iommu0")],
                    [new SoftNvme(Address, "iommu0", new SoftDisk("/nonexistent", Page))]));
            _iommufd = new KernelFd(Kernel, (int)Kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
            Check(((IVfioHost)Kernel).FindIommu(_iommufd.Number, out IIommuBinder? binder), "finding the iommufd");
            Check(binder!.Bind(Port, out IBoundDevice? device), "binding");
            _device = device!;
        }

        public SoftKernel Kernel { get; }

        public DevicePort Port => Kernel.PortOf(Address);

        /// <summary>The device on a tracking page table of a new IOAS, tracking switched on.</summary>
        public (uint Ioas, uint Hwpt) Attach(bool largeLeaves)
        {
            var ioas = IommuIoasAlloc.Create();
            Call(ref ioas);
            var option = IommuOption.Create(
                IommuOptionId.HugePages, IommuOptionOp.Set, ioas.OutIoasId, largeLeaves ? 1UL : 0);
            Call(ref option);
            var hwpt = IommuHwptAlloc.Create(_device.DeviceId, IommuHwptAllocFlags.DirtyTracking, ioas.OutIoasId);
            Call(ref hwpt);
            uint id = hwpt.OutHwptId;
            Check(_device.Attach(ref id), "attaching");
            var track = IommuHwptSetDirtyTracking.Create(id, IommuHwptSetDirtyTrackingFlags.Enable);
            Call(ref track);
            return (ioas.OutIoasId, id);
        }

        public void Detach() => _device.Detach();

        public void Harvest(uint hwpt, ulong iova, ulong byteLength, ulong bitmap)
        {
            var call = IommuHwptGetDirtyBitmap.Create(
                hwpt, iova, byteLength, Page, bitmap, IommuHwptGetDirtyBitmapFlags.None);
            Call(ref call);
        }

        public void Call<T>(ref T command)
            where T : unmanaged, IIoctlArgument<T> =>
            Check(Kernel.Ioctl(_iommufd, ref command).Errno, T.Request.Name);

        public void Dispose()
        {
            _device.Unbind();
            _iommufd.Dispose();
            Kernel.Dispose();
        }
    }
}
