using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Description;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>
/// Whichever call to the kernel fails during a live update, at either side: one process runs the machine, the other one has
/// nothing of it open or mapped, and the pages are charged to the one that runs it. One machine lives through all of a sweep,
/// and at its end moves with every page compared.
/// </summary>
/// <remarks>
/// The level is the soft kernel with two of its processes (<see cref="UpdateProcess"/>): the product's own link and every
/// call that it makes, with the accounting of IOMMU_IOAS_CHANGE_PROCESS between processes. What it does not cover: the real
/// kernel's errors (only that none of ours depends on which one comes), and failures of the socket calls, which are not the
/// kernel interface's; deaths stand for those in <see cref="UpdateExplorationTests"/>.
/// </remarks>
public sealed class LiveUpdateSweepTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public enum Side
    {
        /// <summary>The calls of the process that gives the machine away.</summary>
        Giver,

        /// <summary>The same, when the other one dies just before it runs the machine.</summary>
        GiverThatTakesBack,

        Taker,
    }

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(Side.Giver, DeviceTranslation.None, Errno.ENOMEM)]
    [InlineData(Side.GiverThatTakesBack, DeviceTranslation.None, Errno.ENOMEM)]
    [InlineData(Side.GiverThatTakesBack, DeviceTranslation.Translated, Errno.EIO)]
    [InlineData(Side.Taker, DeviceTranslation.None, Errno.ENOMEM)]
    [InlineData(Side.Taker, DeviceTranslation.Translated, Errno.EIO)]
    public void Whichever_call_fails_one_process_runs_the_machine_and_the_other_has_nothing_of_it(
        Side side, DeviceTranslation viommu, Errno errno)
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(2, (_, device, hardware) => (device with { Viommu = viommu }, hardware)));
        int taken = 0, kept = 0;
        bool isOver = false;
        for (int call = 1; !isOver; call++)
        {
            UpdateProcess giver = rig.Process, next = rig.NewProcess();
            UpdateProcess swept = side == Side.Taker ? next : giver;
            void Begin()
            {
                swept.Faults.FailNth(call, errno);
                swept.SweepThisThread();
            }

            bool moved = rig.Update(
                next,
                atTaker: (step, socket) =>
                {
                    if (side != Side.GiverThatTakesBack || step != LiveUpdateStep.Charged)
                        return;
                    socket.Dispose();
                    throw new InvalidOperationException("killed");
                },
                beginGiver: side == Side.Taker ? null : Begin, beginTaker: side == Side.Taker ? Begin : null);
            string failed = $"call {call} ({swept.Faults.FailedCall})";
            isOver = swept.Faults.FailedCall is null;
            Assert.True(moved == rig.GiverFailure is null, $"{failed}: {rig.GiverFailure}");
            Assert.True(rig.GiverFailure is null or KernelException, $"{failed}: {rig.GiverFailure}");
            Assert.True(moved == rig.TakerFailure is null, $"{failed}: {rig.TakerFailure}");
            UpdateProcess other = moved ? giver : next;
            Assert.True(other.Left.Length == 0, $"{failed} leaves {other.Left}");
            Assert.True(other.Process.Pinned.Count == 0 && rig.ChargedPages > 0,
                $"{failed}: {other.Process.Pinned.Count} pages are charged to the process that does not run the machine, {rig.ChargedPages} to the other");
            (taken, kept) = moved ? (taken + 1, kept) : (taken, kept + 1);
            WritesAreSeen(rig.Machine, failed);
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{side} {viommu} {errno}: {taken} times taken, {kept} times kept");
        Assert.True(kept > 3, $"Only {kept} calls were swept that matter.");
        GuestMachine there = _rig.Assemble(rig.Description);
        (MigrationOutcome outcome, _) = _rig.Migrate(rig.Machine, there);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        MachineRig.AwaitReads(there, 10);
        MachineRig.AssertGoodData(there);
        UpdateProcess last = rig.Process;
        rig.Machine.Dispose();
        Assert.Equal("", last.Left);
        Assert.Equal(0, rig.Soft.CountOpen().IommufdObjects);
    }

    /// <summary>It runs, and what it and its devices write from now on is seen.</summary>
    private static void WritesAreSeen(GuestMachine machine, string failed)
    {
        machine.DirtyTracker.Start();
        // What was written right before tracking began may be counted as read right after: the next writes tell.
        MachineRig.Await(
            () =>
            {
                using DirtyLease lease = machine.DirtyTracker.Harvest();
                return lease.BySource.Any(source => source.Kind == DirtySourceKind.Iommu && source.PageCount > 0);
            },
            () => $"writes of its devices after {failed}");
        machine.DirtyTracker.Stop();
        MachineRig.AssertGoodData(machine);
    }
}
