using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Recording;

namespace Tidemark.Conformance.Tests;

/// <summary>Cases recorded on one soft kernel and replayed on another, also on one that lies.</summary>
public sealed class RecordingTests
{
    private static readonly string[] s_areas =
        ["ioas-map", "ioas-copy", "hwpt", "options", "vfio-feature", "vfio-irq", "migration-stream", "mtty", "context"];

    [Fact]
    public void What_was_recorded_is_answered_equally_and_nothing_stays_open()
    {
        CallRecording recording = Record();
        Assert.True(recording.Cases.Count > 300);
        using var rig = new SoftRig();
        Assert.Empty(Play(rig.Soft, rig, recording).Select(mismatch => mismatch.ToString()));
        Assert.Equal(rig.Baseline, rig.Soft.CountOpen());
    }

    [Theory]
    [InlineData(Errno.EINVAL, Errno.EFAULT)]
    [InlineData(Errno.EOPNOTSUPP, Errno.EINVAL)]
    [InlineData(Errno.ENOENT, Errno.Success)]
    public void A_kernel_that_answers_another_errno_is_found_out(Errno truth, Errno told) => AssertFoundOut(
        (_, _, _, answer) => answer.Errno != truth ? answer
            : told == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(told),
        mismatch => mismatch.Recorded.Contains(truth.ToString(), StringComparison.Ordinal));

    [Fact]
    public void A_kernel_that_answers_one_bit_differently_is_found_out() => AssertFoundOut(
        (request, _, argument, answer) =>
        {
            if (request == IommufdRequests.IoasUnmap.Value && answer.Succeeded)
                argument[16] ^= 1;
            return answer;
        },
        mismatch => mismatch.Answered.Contains("IOMMU_IOAS_UNMAP", StringComparison.Ordinal));

    [Fact]
    public void A_kernel_that_writes_one_bit_of_memory_differently_is_found_out() => AssertFoundOut(
        (request, _, argument, answer) =>
        {
            if (request == IommufdRequests.IoasIovaRanges.Value && answer.Succeeded)
                Flip(BitConverter.ToUInt64(argument[16..]));
            return answer;
        },
        mismatch => mismatch.Answered.StartsWith("memory:", StringComparison.Ordinal),
        "ioas");

    [Fact]
    public void Every_difference_that_stays_is_in_the_list_of_divergences()
    {
        string? folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder!, "Tidemark.slnx")))
            folder = Path.GetDirectoryName(folder);
        string document = File.ReadAllText(Path.Combine(folder!, "docs/internals/divergences.md"));
        Assert.All(ConformanceComparison.KnownDifferences.Keys, name => Assert.Contains(name, document, StringComparison.Ordinal));
        Assert.All(RecordedDifferences.Reasons, reason => Assert.Contains($"| {reason} |", document, StringComparison.Ordinal));
        const string Call = "ioctl(5, VFIO_DEVICE_GET_REGION_INFO, {argsz=32}) = 0";
        Assert.NotNull(RecordedDifferences.Find(new ReplayMismatch("vfio.region-info.accepted", 4, Call, "")));
        Assert.Null(RecordedDifferences.Find(new ReplayMismatch("iommufd.ioas.map.accepted", 4, Call, "")));
        Assert.Null(RecordedDifferences.Find(new ReplayMismatch("vfio.region-info.accepted", 1, "close 5 = 0", "")));
    }

    private static unsafe void Flip(ulong address) =>
        // The address is of a live mapping of this process: the call that got it succeeded.
        *(byte*)address ^= 1;

    private static CallRecording Record(params string[] areas)
    {
        using var rig = new SoftRig();
        var recorder = new ConformanceRecorder(rig.Soft);
        ConformanceContext context = ConformanceContext.Create(recorder.Kernel, rig.Soft.Sysfs, SoftRig.Addresses);
        ConformanceSuite.Run(
            context,
            ConformanceSuite.Cases.Where(candidate => (areas.Length == 0 ? s_areas : areas).Contains(candidate.Area)),
            recorder.Start, recorder.End, TestContext.Current.CancellationToken);
        List<CallRecording> parts = [.. recorder.ToRecordings("rig", context.Devices).Select(part =>
            CallRecording.Parse(part.Recording.ToText()))];
        return parts[0] with { Cases = [.. parts.SelectMany(part => part.Cases)] };
    }

    private static List<ReplayMismatch> Play(IKernel kernel, SoftRig rig, CallRecording recording)
    {
        ConformanceContext context = ConformanceContext.Create(rig.Soft, rig.Soft.Sysfs, SoftRig.Addresses);
        var replay = new TraceReplay(kernel, recording, ConformanceRecorder.NodesOf(context.Devices));
        return [.. recording.Cases.Select(replay.Play).OfType<ReplayMismatch>()];
    }

    private static void AssertFoundOut(LyingKernel.Lie lie, Predicate<ReplayMismatch> tells, params string[] areas)
    {
        CallRecording recording = Record(areas);
        using var rig = new SoftRig();
        Assert.Contains(Play(new LyingKernel(rig.Soft, lie), rig, recording), tells);
        Assert.Equal(rig.Baseline, rig.Soft.CountOpen());
    }
}
