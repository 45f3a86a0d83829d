using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Where a leaf stays huge, pages are compared with what was sent, and only those that changed are sent again.</summary>
public sealed class HugeLeafTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_write_to_a_leaf_that_stays_huge_costs_what_changed_and_not_the_leaf()
    {
        MachineDescription description = _rig.Describe(1, (_, device, hardware) =>
            (device with { ReadBytesPerSecond = MachineRig.MiB / 4 }, hardware)) with { HugePages = true };
        SoftKernel soft = _rig.CreateKernel(description);
        GuestMachine source = MachineRig.Run(_rig.Own(GuestMachine.Assemble(description, new CopyingNothing(soft), soft.Sysfs)));
        GuestMachine destination = _rig.Assemble(description);
        (MigrationOutcome outcome, _) = _rig.Migrate(source, destination, whileItWorks: true);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Contains(source.LeafRefusals, refusal => refusal.Contains("EOPNOTSUPP", StringComparison.Ordinal));
        PassReport[] later = [.. outcome.Report.Passes.Skip(1).Where(pass => pass.Sources.Any(
            count => count.Kind == DirtySourceKind.Iommu && count.PageCount >= 512))];
        Assert.NotEmpty(later);
        // Whole leaves are dirty,
        Assert.All(later, pass => Assert.Equal(0UL, pass.Sources.Single(count => count.Kind == DirtySourceKind.Iommu).PageCount % 512));
        // and of their pages that have content more are left out, because they did not change, than are sent. What the
        // processor wrote is not of them.
        Assert.True(
            later.Any(pass => pass.UnchangedPages > 64 && pass.UnchangedPages + CountOf(pass, DirtySourceKind.Cpu) > pass.SentPages),
            string.Join("\n", later.Select(pass => $"{pass}")));
        Assert.Equal(0UL, outcome.Report.LostPages);
        MachineRig.AwaitReads(destination, 5);
        MachineRig.AssertGoodData(destination);
    }

    private static ulong CountOf(PassReport pass, DirtySourceKind kind) =>
        pass.Sources.Where(count => count.Kind == kind).Aggregate(0UL, (sum, count) => sum + count.PageCount);

    /// <summary>A kernel that makes no second address space out of a first one, so that leaves stay as they are.</summary>
    private sealed class CopyingNothing(SoftKernel soft) : ForwardingKernel(() => soft)
    {
        public override SyscallResult Ioctl(int fd, uint request, Span<byte> argument) =>
            request == IommufdRequests.IoasCopy.Value ? SyscallResult.Fail(Errno.EOPNOTSUPP) : base.Ioctl(fd, request, argument);
    }
}
