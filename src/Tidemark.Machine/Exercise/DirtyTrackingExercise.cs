using System.Globalization;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Nvme;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Exercise;

/// <summary>
/// Uses everything that dirty tracking offers on one NVMe controller, which reads its disk into memory of ours, and
/// compares what its IOMMU recorded with what the device wrote. The disk is only read.
/// </summary>
/// <remarks>
/// <code>
/// base pages:  harvest -> one small write -> peek, unmap, map again -> another page table with reads in flight
/// huge pages:  one small write -> the same with the device moved to base pages while it is attached, and back
/// </code>
/// The device must be bound to a VFIO driver and not in use. It is reset when this ends.
/// </remarks>
public sealed class DirtyTrackingExercise
{
    private const ulong MiB = ExerciseStage.MiB;
    private const int PagesPerRead = 4;

    private readonly string _iommu;
    private readonly List<ExerciseResult> _results = [];

    private DirtyTrackingExercise(string iommu) => _iommu = iommu;

    /// <summary>Runs all of it.</summary>
    /// <exception cref="KernelException">The device can not be opened, bound or attached.</exception>
    /// <exception cref="NvmeException">It does not work as an NVMe controller.</exception>
    public static IReadOnlyList<ExerciseResult> Run(IKernel kernel, ISysfs sysfs, string pciAddress)
    {
        string folder = VfioDiscovery.GetPciFolder(pciAddress);
        using Iommufd iommufd = Iommufd.Open(kernel);
        using VfioDevice device = VfioDevice.OpenFolder(kernel, sysfs, folder, pciAddress);
        device.BindIommufd(iommufd);
        using DirtyBuffer buffer = DirtyBuffer.Create(kernel);
        using Mapping backing = Mapping.CreateAnonymous(kernel, ExerciseStage.MemoryBytes + (2 * MiB));
        // Aligned, so that the kernel may back it with huge pages, and the IOMMU map it with huge leaves.
        ulong start = (backing.Address.Value + (2 * MiB) - 1) & ~((2 * MiB) - 1);
        // Refused where there are no huge pages; the exercise with them then says so.
        kernel.Madvise(start, ExerciseStage.MemoryBytes, MemoryAdvice.HugePage);
        GuestMemory memory = DescribeMemory(start);
        var exercise = new DirtyTrackingExercise(VfioDiscovery.FindIommu(sysfs, folder) ?? $"before {pciAddress}");
        using (var stage = new ExerciseStage(device, iommufd, memory, buffer, hugePages: false))
        {
            if (!stage.Attachment.HasIommuTracking)
                return [new ExerciseResult("harvest", ExerciseOutcome.NotShown, $"Nothing can be exercised: {stage.Attachment.NoTrackingReason}.")];
            exercise.Try("harvest", () => exercise.Harvest(stage));
            exercise.Try("huge-pages-off", () => exercise.WriteOnePage(stage, hugePages: false));
            exercise.Try("peek-before-unmap", () => exercise.PeekBeforeUnmap(stage));
            exercise.Try("replace-while-tracking", () => exercise.Replace(stage));
        }

        // A leaf needs physical alignment, which follows the address for memory in huge pages, and the start of the
        // allocation where that is one file.
        foreach (ulong begin in (ReadOnlySpan<ulong>)[start, backing.Address.Value])
        {
            exercise._results.RemoveAll(result => result.Name is "huge-pages-on" or "split-leaves");
            using var stage = new ExerciseStage(device, iommufd, DescribeMemory(begin), buffer, hugePages: true);
            exercise.Try("huge-pages-on", () => exercise.WriteOnePage(stage, hugePages: true));
            exercise.Try("split-leaves", () => exercise.SplitLeaves(stage));
            if (exercise._results[^2].Outcome != ExerciseOutcome.NotShown)
                break;
        }

        return exercise._results;
    }

    private static GuestMemory DescribeMemory(ulong start) =>
        new([new MemorySlot(new GuestPhysicalAddress(0), ExerciseStage.MemoryBytes, new HostAddress(start), 0)]);

    private void Try(string name, Func<(ExerciseOutcome Outcome, string Evidence)> step)
    {
        try
        {
            (ExerciseOutcome outcome, string evidence) = step();
            _results.Add(new ExerciseResult(name, outcome, evidence));
        }
        catch (KernelException failure)
        {
            // A refusal is this host's answer; the stage is whole, and the others are tried all the same.
            _results.Add(new ExerciseResult(name, ExerciseOutcome.NotShown, failure.Message));
        }
    }

    private (ExerciseOutcome Outcome, string Evidence) Harvest(ExerciseStage stage)
    {
        var written = new PageRun(ExerciseStage.FirstDataPage, 1024);
        stage.ReadDirty(stage.Hwpt, clear: true);
        stage.Write(written, PagesPerRead);
        PageBitmap first = stage.ReadDirty(stage.Hwpt, clear: true);
        PageBitmap idle = stage.ReadDirty(stage.Hwpt, clear: true);
        stage.Write(written, PagesPerRead);
        PageBitmap second = stage.ReadDirty(stage.Hwpt, clear: true);
        if (FindMissed(first, written) is { } missed)
            return (ExerciseOutcome.Failed, missed);
        if (FindMissed(second, written) is { } missedAgain)
            return (ExerciseOutcome.Failed, $"{missedAgain} They were written again after a harvest had cleared their bits.");
        ulong left = CountData(idle);
        return left == 0
            ? (ExerciseOutcome.Shown, Text($"the device wrote {written.Count} pages twice; each harvest reported all of them, and a harvest in between, with the device idle, none"))
            : (ExerciseOutcome.Failed, Text($"a harvest did not clear: with the device idle the next one still reported {left} pages"));
    }

    private (ExerciseOutcome Outcome, string Evidence) WriteOnePage(ExerciseStage stage, bool hugePages)
    {
        var written = new PageRun((4 * MiB >> GuestPage.Shift) + 7, 1);
        stage.ReadDirty(stage.Hwpt, clear: true);
        stage.Write(written, 1);
        PageBitmap dirty = stage.ReadDirty(stage.Hwpt, clear: true);
        if (FindMissed(dirty, written) is { } missed)
            return (ExerciseOutcome.Failed, missed);
        ulong count = CountData(dirty);
        string seen = Text($"one write of {GuestPage.Size} bytes was reported as {count} dirty {(count == 1 ? "page" : "pages")}");
        if (hugePages)
        {
            return count > 1
                ? (ExerciseOutcome.Shown, $"{seen}: a huge leaf is one dirty unit")
                : (ExerciseOutcome.NotShown, $"{seen}: the kernel had no contiguous memory to map with huge leaves");
        }

        return (count == 1 ? ExerciseOutcome.Shown : ExerciseOutcome.Failed, $"{seen}, with IOMMU_OPTION_HUGE_PAGES=0");
    }

    /// <summary>What a migration does with large leaves: a second address space with the same mappings, and back.</summary>
    private (ExerciseOutcome Outcome, string Evidence) SplitLeaves(ExerciseStage stage)
    {
        var counts = new List<ulong>();
        var small = new List<ulong>();
        var written = new PageRun((4 * MiB >> GuestPage.Shift) + 7, 1);
        var carried = new PageBitmap(ExerciseStage.MemoryBytes >> GuestPage.Shift);
        foreach (bool? hugePages in (bool?[])[null, false, true])
        {
            if (hugePages is { } allowed)
            {
                stage.Write(written, 1);
                carried.Clear();
                stage.Container.Rebuild(
                    allowed, (_, next) => next.SetDirtyTracking(true),
                    old => carried.Or(stage.ReadDirty(old, clear: true)));
                if (FindMissed(carried, written) is { } dropped)
                    return (ExerciseOutcome.Failed, $"{dropped} They were written before its leaves changed.");
            }

            stage.ReadDirty(stage.Hwpt, clear: true);
            stage.Write(written, 1);
            PageBitmap dirty = stage.ReadDirty(stage.Hwpt, clear: true);
            if (FindMissed(dirty, written) is { } missed)
                return (ExerciseOutcome.Failed, missed);
            counts.Add(CountData(dirty));
            stage.WriteCompletion();
            small.Add(Count(stage.ReadDirty(stage.Hwpt, clear: true), 0, ExerciseStage.FirstDataPage));
        }

        string seen = Text($"a write of {GuestPage.Size} bytes was reported as {counts[0]} dirty pages and one of 16 bytes as {small[0]}; as {counts[1]} and {small[1]} after the attached device had gone to base pages; and as {counts[2]} and {small[2]} after the way back");
        if (counts[1] != 1 || small[1] != 1)
            return (ExerciseOutcome.Failed, seen);
        return counts[0] > 1 && counts[2] > 1
            ? (ExerciseOutcome.Shown, seen)
            : (ExerciseOutcome.NotShown, $"{seen}: the kernel had no contiguous memory to map with huge leaves");
    }

    private (ExerciseOutcome Outcome, string Evidence) PeekBeforeUnmap(ExerciseStage stage)
    {
        var written = new PageRun(ExerciseStage.SecondArea.First.Value >> GuestPage.Shift, 64);
        stage.ReadDirty(stage.Hwpt, clear: true);
        stage.Write(written, PagesPerRead);
        PageBitmap first = stage.ReadDirty(stage.Hwpt, clear: false);
        PageBitmap second = stage.ReadDirty(stage.Hwpt, clear: false);
        stage.Container.Ioas.Unmap(ExerciseStage.SecondArea);
        stage.Map(ExerciseStage.SecondArea);
        PageBitmap after = stage.ReadDirty(stage.Hwpt, clear: true);
        if (FindMissed(first, written) is { } missed)
            return (ExerciseOutcome.Failed, missed);
        if (FindMissed(second, written) is { } lost)
            return (ExerciseOutcome.Failed, $"{lost} A read with NO_CLEAR had reported them before, so it cleared.");
        return (ExerciseOutcome.Shown, Text($"{written.Count} pages were read twice with NO_CLEAR and reported both times, then unmapped; mapped again, {CountData(after)} of them were dirty, so without the look before they would have been lost"));
    }

    private (ExerciseOutcome Outcome, string Evidence) Replace(ExerciseStage stage)
    {
        ContainerHwpt entry = stage.Attachment.Entry!;
        stage.ReadDirty(entry.Hwpt, clear: true);
        ulong inFlight = stage.Submit(new PageRun(ExerciseStage.FirstDataPage, 32 * PagesPerRead), PagesPerRead);
        PageBitmap fromOld = new(ExerciseStage.MemoryBytes >> GuestPage.Shift);
        // UAPI: Linux's VT-d driver (7.3, scalable mode) leaves a device without a valid PASID entry for a moment, and a
        // controller whose DMA is refused just then stops for good.
        bool isIdle = _iommu.StartsWith("dmar", StringComparison.Ordinal);
        if (isIdle)
            stage.AwaitAll();
        Hwpt old = stage.Container.Replace(
            entry, hwpt => hwpt.SetDirtyTracking(true), hwpt => fromOld.Or(stage.ReadDirty(hwpt, clear: true)));
        stage.AwaitAll();
        stage.Write(new PageRun(ExerciseStage.FirstDataPage + inFlight, inFlight), PagesPerRead);
        fromOld.Or(stage.ReadDirty(old, clear: true));
        old.Dispose();
        PageBitmap fromNew = stage.ReadDirty(entry.Hwpt, clear: true);
        ulong old1 = CountData(fromOld);
        ulong new1 = CountData(fromNew);
        fromOld.Or(fromNew);
        if (FindMissed(fromOld, new PageRun(ExerciseStage.FirstDataPage, 2 * inFlight)) is { } missed)
            return (ExerciseOutcome.Failed, $"{missed} They were written around a change of the page table.");
        return (ExerciseOutcome.Shown, Text($"{(isIdle ? $"between reads of {inFlight} pages" : $"with reads of {inFlight} pages in flight")} the device went from HWPT {old.Id} to HWPT {entry.Hwpt.Id}, both tracking; of {2 * inFlight} pages written around it the old one reported {old1} and the new one {new1}, together all"));
    }

    /// <summary>A sentence when a page that the device wrote is not dirty; else null.</summary>
    private string? FindMissed(PageBitmap dirty, PageRun written)
    {
        ulong missed = 0;
        ulong first = 0;
        for (ulong page = written.FirstPage; page < written.FirstPage + written.Count; page++)
        {
            if (dirty[page])
                continue;
            if (missed++ == 0)
                first = page;
        }

        return missed == 0
            ? null
            : Text($"The dirty bits of IOMMU {_iommu} missed {missed} of {written.Count} pages that the device wrote (first: page 0x{first:x}).");
    }

    private static ulong CountData(PageBitmap dirty) => Count(dirty, ExerciseStage.FirstDataPage, dirty.PageCount);

    private static ulong Count(PageBitmap dirty, ulong first, ulong end)
    {
        ulong count = 0;
        for (ulong page = first; page < end; page++)
            count += dirty[page] ? 1u : 0;
        return count;
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
