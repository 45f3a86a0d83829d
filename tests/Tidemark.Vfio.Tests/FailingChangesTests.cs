using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// Whatever single call of the kernel fails, from the attach to the switchover: nothing leaks, no dirty page is lost, and
/// a device runs at the end.
/// </summary>
public sealed class FailingChangesTests(ITestOutputHelper output) : IDisposable
{
    private const ulong Page = TrackedScene.FirstPage;

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(Backend.Iommufd, false, Errno.EIO)]
    [InlineData(Backend.Iommufd, true, Errno.ENOMEM)]
    [InlineData(Backend.Legacy, false, Errno.ENOMEM)]
    [InlineData(Backend.Legacy, true, Errno.EIO)]
    public void Whatever_call_fails_nothing_leaks_no_dirty_page_is_lost_and_devices_run(
        Backend backend, bool viommu, Errno errno)
    {
        _rig.Faults.FailNth(0, Errno.Success);
        Assert.True(Run(backend, viommu));
        long calls = _rig.Faults.CallCount;
        Assert.InRange(calls, 50, 2000);
        int completed = 0;
        for (long nth = 1; nth <= calls; nth++)
        {
            _rig.Faults.FailNth(nth, errno);
            try
            {
                if (Run(backend, viommu))
                    completed++;
            }
            catch (KernelException)
            {
                // The machine could not be set up.
            }

            string? failed = _rig.Faults.FailedCall;
            _rig.Faults.FailNth(0, Errno.Success);
            Assert.True(_rig.Baseline == _rig.Soft.CountOpen(),
                $"Call {nth} ({failed}) failed and {_rig.Soft.CountOpen()} is left of {_rig.Baseline}.");
        }

        output.WriteLine($"sweep {backend}, viommu {viommu}: {calls} calls failed one by one, {completed} runs went on");
        Assert.InRange(completed, calls / 4, calls);
    }

    [Fact]
    public void Larger_leaves_come_and_go_and_whatever_step_fails_no_bit_is_lost()
    {
        int failures = 0;
        long calls = long.MaxValue;
        for (long nth = 0; nth <= calls; nth++)
        {
            using (var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 3, 4, 2], hugePages: true))
            {
                scene.Write(1, Page);
                scene.Write(4, Page + 1);
                _rig.Faults.FailNth(nth, Errno.EIO);
                try
                {
                    scene.Tracking.SetHugePages(scene.Iommufd, allowed: false);
                    if (nth == 0)
                        calls = _rig.Faults.CallCount;
                }
                catch (KernelException)
                {
                    failures++;
                }

                // An object whose destruction is what failed lives until the iommufd is closed, and is counted.
                bool isDestroy = _rig.Faults.FailedCall == $"ioctl 0x{IommufdRequests.Destroy.Value:x}";
                _rig.Faults.FailNth(0, Errno.Success);
                // What was pending before the change is in the union; a device that is assumed is left out of it here.
                HashSet<ulong> pages = CountTables(scene);
                scene.Write(1, Page + 2);
                scene.Write(4, Page + 3);
                pages.UnionWith(CountTables(scene));
                Assert.Superset(new HashSet<ulong> { Page, Page + 1, Page + 2, Page + 3 }, pages);
                Assert.Equal(isDestroy, scene.Iommufd.Iommufd.FailedDestroyCount != 0);
            }

            Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
        }

        Assert.InRange(calls, 8, 100);
        // Reading and destroying what is old is no failure of the move.
        Assert.InRange(failures, calls / 2, calls);
        output.WriteLine($"sweep leaves: {calls} calls failed one by one, {failures} were refusals");
    }

    /// <summary>What is known without the devices that nobody tracks.</summary>
    private static HashSet<ulong> CountTables(TrackedScene scene)
    {
        ulong pending = scene.Tracker.CountPending();
        var pages = new Memory.PageBitmap(scene.Rig.Memory.SpanPages);
        foreach (TableDirtySource source in scene.Tracking.Find<TableDirtySource>())
            source.Harvest(pages);
        // Pending pages come from tables that went; they are in the next harvest, which the assumed device fills anyway.
        scene.Tracker.Change((known, _) => pages.Or(known));
        Assert.True(pages.CountSet() >= pending);
        return [.. TrackedScene.ToPages(pages)];
    }

    /// <returns>Whether the switchover came to its end.</returns>
    private bool Run(Backend backend, bool viommu)
    {
        using var scene = new TrackedScene(_rig, backend, [1, 2], viommu: viommu);
        var written = new HashSet<ulong>();
        var seen = new HashSet<ulong>();
        void Write(int number, ulong page, ulong? guest = null)
        {
            scene.Write(number, page);
            written.UnionWith([guest ?? page, scene.CompletionPage(number)]);
        }

        Write(1, Page);
        Write(2, Page + 1);
        seen.UnionWith(Retry(scene.Harvest));
        Retry(scene.MapWindow);
        Write(1, TrackedScene.WindowIova(1) >> 12, TrackedScene.WindowPage + 1);
        Write(2, TrackedScene.WindowIova(2) >> 12, TrackedScene.WindowPage + 2);
        Retry(() => scene.Join(4));
        Write(4, Page + 2);
        Retry(() => scene.Join(3));
        Write(3, Page + 3);
        Retry(scene.UnmapWindow);
        seen.UnionWith(Retry(scene.Harvest));
        Write(2, Page + 4);
        Write(4, Page + 5);
        scene.Tracking.Leave(scene.Devices[4]);
        scene.Tracking.Leave(scene.Devices[2]);
        Write(3, Page + 6);
        scene.Tracking.Leave(scene.Devices[3]);
        if (backend == Backend.Iommufd)
        {
            Write(1, Page + 7);
            Retry(() => scene.Tracking.SetHugePages(scene.Iommufd, allowed: true));
        }

        Write(1, Page + 8);
        seen.UnionWith(Retry(scene.Harvest));
        AssertSeen(written, seen);
        return SwitchOver(scene);
    }

    private bool SwitchOver(TrackedScene scene)
    {
        VfioMigratable part = scene.Devices[1].Migratable!;
        var state = new byte[4096];
        bool isDone = false;
        try
        {
            part.BeginSave();
            part.Estimate();
            scene.Write(1, Page + 9);
            part.EnterP2P();
            part.Stop();
            while (part.ReadState(state) > 0)
            {
                // Where it goes is the engine's.
            }

            HashSet<ulong> last = Retry(scene.Harvest);
            Assert.Contains(Page + 9, last);
            part.EndSave();
            isDone = true;
        }
        catch (KernelException)
        {
            // The engine gives up, and the machine runs on.
        }

        Retry(part.Recover);
        Assert.Equal(VfioDeviceMigState.Running, Retry(scene.Devices[1].GetMigrationState));
        scene.Drive(1);
        scene.Write(1, Page);
        return isDone;
    }

    private void AssertSeen(HashSet<ulong> written, HashSet<ulong> seen)
    {
        ulong[] lost = [.. written.Except(seen)];
        Assert.True(lost.Length == 0, $"Pages {string.Join(", ", lost)} are lost after {_rig.Faults.FailedCall} failed.");
    }

    private static void Retry(Action action) => Retry(() =>
    {
        action();
        return 0;
    });

    private static T Retry<T>(Func<T> action)
    {
        try
        {
            return action();
        }
        catch (KernelException)
        {
            // One call fails in a run: the second attempt finds what the first left.
            return action();
        }
    }
}
