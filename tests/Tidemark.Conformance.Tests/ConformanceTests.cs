using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;

namespace Tidemark.Conformance.Tests;

/// <summary>The cases on the soft kernel, and on kernels that lie, where they must fail.</summary>
public sealed class ConformanceTests : IDisposable
{
    /// <summary>What the soft kernel passes; raise it with every case.</summary>
    private const int PassedCases = 3593;

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void The_soft_kernel_keeps_every_promise_and_nothing_is_left()
    {
        IReadOnlyList<ConformanceResult> results = Run(_rig.Soft);
        Assert.Empty(results.Where(result => result.Verdict == ConformanceVerdict.Failed)
            .Select(result => $"{result.Case.Name}: {result.Reason}"));
        int passed = results.Count(result => result.Verdict == ConformanceVerdict.Passed);
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"conform: {passed} of {results.Count} cases passed on the soft kernel"));
        Assert.Equal(PassedCases, passed);
        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Fact]
    public void What_does_not_apply_to_the_soft_kernel_is_known()
    {
        IReadOnlyList<ConformanceResult> results = Run(_rig.Soft);
        string[] names =
        [
            .. results.Where(result => result.Verdict == ConformanceVerdict.NotApplicable)
                .Select(result => result.Case.Name).Order(StringComparer.Ordinal),
        ];
        Assert.Equal(
            ["iommufd.aperture.amd.beyond", "vfio.region-info.capabilities-grow-argsz"],
            names);
    }

    [Fact]
    public void Cases_have_unique_names_of_one_form_and_say_where_the_promise_is_made()
    {
        string[] names = [.. ConformanceSuite.Cases.Select(candidate => candidate.Name)];
        Assert.Equal(names.Length, names.Distinct(StringComparer.Ordinal).Count());
        Assert.All(names, name =>
            Assert.Matches("^(compat|iommufd|legacy|testdomain|vfio)(\\.[a-z0-9]+(-[a-z0-9]+)*)+$", name));
        Assert.All(ConformanceSuite.Cases,
            candidate => Assert.Matches("^(iommufd\\.h|vfio\\.h|kernel behaviour), .+: .+", candidate.Source));
        Assert.All(ConformanceSuite.Cases, candidate => Assert.NotEmpty(candidate.Area));
    }

    [Fact]
    public void Cases_do_not_depend_on_their_order()
    {
        ConformanceContext context = ConformanceContext.Create(_rig.Soft, _rig.Soft.Sysfs, SoftRig.Addresses);
        IReadOnlyList<ConformanceResult> results = ConformanceSuite.Run(context, ConformanceSuite.Cases.Reverse());
        Assert.DoesNotContain(results, result => result.Verdict == ConformanceVerdict.Failed);
    }

    [Fact]
    public void Without_devices_the_cases_that_need_one_say_so()
    {
        ConformanceContext context = ConformanceContext.Create(_rig.Soft, _rig.Soft.Sysfs, []);
        IReadOnlyList<ConformanceResult> results = ConformanceSuite.Run(context, ConformanceSuite.Cases);
        Assert.DoesNotContain(results, result => result.Verdict == ConformanceVerdict.Failed);
        ConformanceResult[] others = [.. results.Where(result =>
            result.Verdict == ConformanceVerdict.NotApplicable
            && !result.Reason!.Contains("--device", StringComparison.Ordinal))];
        // What stands in where no device is named reserves nothing, and its type of information is in no header.
        Assert.Equal(
            [
                "iommufd.hw-info.length-by-type", "iommufd.ioas.iova-ranges.partial-fill",
                "iommufd.ioas.map.reserved-by-device",
            ],
            others.Select(result => result.Case.Name).Order(StringComparer.Ordinal));
        Assert.True(results.Count(result => result.Verdict == ConformanceVerdict.Passed) > 1400);
    }

    [Fact]
    public void Without_devices_and_test_domain_nothing_fails()
    {
        using var rig = new SoftRig(testDomain: false);
        IReadOnlyList<ConformanceResult> results = ConformanceSuite.Run(
            ConformanceContext.Create(rig.Soft, rig.Soft.Sysfs, []), ConformanceSuite.Cases);
        Assert.DoesNotContain(results, result => result.Verdict == ConformanceVerdict.Failed);
        Assert.All(
            results.Where(result => result.Case.Name.StartsWith("testdomain.", StringComparison.Ordinal)),
            result => Assert.Contains("CONFIG_IOMMUFD_TEST", result.Reason, StringComparison.Ordinal));
        Assert.True(results.Count(result => result.Verdict == ConformanceVerdict.Passed) > 400);
    }

    [Fact]
    public void A_device_that_is_not_there_is_named_in_the_reason()
    {
        ConformanceContext context = ConformanceContext.Create(_rig.Soft, _rig.Soft.Sysfs, ["0000:77:00.0"]);
        Assert.NotNull(Assert.Single(context.Devices).Problem);
        ConformanceResult result = Assert.Single(ConformanceSuite.Run(context, [Find("vfio.bind.twice")]));
        Assert.Equal(ConformanceVerdict.NotApplicable, result.Verdict);
        Assert.Contains("0000:77:00.0", result.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_kernel_without_iommufd_makes_everything_not_applicable()
    {
        var kernel = new FaultInjectingKernel(_rig.Soft);
        kernel.FailNth(1, Errno.ENOENT);
        ConformanceContext context = ConformanceContext.Create(kernel, _rig.Soft.Sysfs, SoftRig.Addresses);
        Assert.False(context.HasIommufd);
        Assert.Empty(context.Devices);
        kernel.FailNth(1, Errno.ENOENT);
        ConformanceResult result = Assert.Single(ConformanceSuite.Run(context, [Find("iommufd.ioas.alloc.accepted")]));
        Assert.Equal(ConformanceVerdict.NotApplicable, result.Verdict);
    }

    [Theory]
    [InlineData(Errno.ENOENT, Errno.EINVAL)]
    [InlineData(Errno.EINVAL, Errno.EOPNOTSUPP)]
    [InlineData(Errno.EOPNOTSUPP, Errno.EINVAL)]
    [InlineData(Errno.EOVERFLOW, Errno.EINVAL)]
    [InlineData(Errno.EEXIST, Errno.EADDRINUSE)]
    [InlineData(Errno.EADDRINUSE, Errno.EINVAL)]
    [InlineData(Errno.EFAULT, Errno.EINVAL)]
    [InlineData(Errno.EBUSY, Errno.Success)]
    [InlineData(Errno.E2BIG, Errno.Success)]
    [InlineData(Errno.ENOTTY, Errno.EINVAL)]
    public void A_kernel_that_answers_another_errno_is_found_out(Errno truth, Errno told) =>
        AssertFoundOut((_, _, _, answer) => answer.Errno != truth ? answer
            : told == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(told));

    [Fact]
    public void A_kernel_that_forgets_dirty_bits_is_found_out() => AssertFoundOut(
        (request, given, argument, answer) =>
        {
            // It walks and clears, but the last word of the bitmap stays unwritten: as if nothing had been dirty.
            if (request == IommufdRequests.HwptGetDirtyBitmap.Value && answer.Succeeded && given.Length >= 48)
                Forget(BitConverter.ToUInt64(given[40..]));
            return answer;
        },
        "dirty-tracking");

    [Fact]
    public void A_kernel_that_forgets_to_drain_its_IOTLB_is_found_out()
    {
        using var rig = new SoftRig(SoftKernelFaults.SkipIotlbDrain);
        Assert.Contains(Run(rig.Soft, "dirty-tracking"), result => result.Verdict == ConformanceVerdict.Failed);
    }

    [Fact]
    public void Every_case_holds_on_a_host_whose_devices_share_groups()
    {
        using var rig = new SoftRig(sharedGroups: true);
        IReadOnlyList<ConformanceResult> results = Run(rig.Soft);
        Assert.Empty(results.Where(result => result.Verdict == ConformanceVerdict.Failed)
            .Select(result => $"{result.Case.Name}: {result.Reason}"));
        Assert.Equal(rig.Baseline, rig.Soft.CountOpen());
    }

    [Fact]
    public void A_kernel_that_miscounts_what_it_unmapped_is_found_out() => AssertFoundOut(
        (request, _, argument, answer) =>
        {
            if (request == IommufdRequests.IoasUnmap.Value && answer.Succeeded)
                argument[16] ^= 1;
            return answer;
        },
        "ioas-unmap");

    [Fact]
    public void A_kernel_that_leaves_data_fd_as_it_was_is_found_out() => AssertFoundOut(
        (request, given, argument, answer) =>
        {
            if (request == VfioRequests.DeviceFeature.Value && given.Length == 16 && argument[12] == 0xFF)
                given[12..].CopyTo(argument[12..]);
            return answer;
        },
        "migration-states");

    [Fact]
    public void A_kernel_without_dirty_tracking_capability_contradicts_itself() => AssertFoundOut(
        (request, _, argument, answer) =>
        {
            if (request == IommufdRequests.GetHwInfo.Value && answer.Succeeded && argument.Length >= 40)
                argument[32] ^= 1;
            return answer;
        },
        "hw-info");

    private static unsafe void Forget(ulong address)
    {
        // The address is of a live mapping of this process, or the bad one that a case gives on purpose.
        if (address < 1UL << 47)
            new Span<byte>((byte*)address, 2).Clear();
    }

    private static ConformanceCase Find(string name) =>
        Assert.Single(ConformanceSuite.Cases, candidate => candidate.Name == name);

    private static IReadOnlyList<ConformanceResult> Run(SoftKernel kernel, string? area = null) =>
        Run(kernel, kernel.Sysfs, area);

    private static IReadOnlyList<ConformanceResult> Run(IKernel kernel, ISysfs sysfs, string? area) =>
        ConformanceSuite.Run(
            ConformanceContext.Create(kernel, sysfs, SoftRig.Addresses),
            ConformanceSuite.Cases.Where(candidate => area is null || candidate.Area == area));

    private void AssertFoundOut(LyingKernel.Lie lie, string? area = null)
    {
        IReadOnlyList<ConformanceResult> results = Run(new LyingKernel(_rig.Soft, lie), _rig.Soft.Sysfs, area);
        Assert.Contains(results, result => result.Verdict == ConformanceVerdict.Failed);
        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }
}
