using Tidemark.Conformance.Areas;
using Tidemark.Kernel;

namespace Tidemark.Conformance;

/// <summary>All cases, and running them.</summary>
public static class ConformanceSuite
{
    /// <summary>Every case there is, in the order of the areas.</summary>
    public static IReadOnlyList<ConformanceCase> Cases { get; } = Collect();

    /// <summary>
    /// Runs cases one after the other. A case that meets something unforeseen has failed with that as its reason; the
    /// next one runs all the same.
    /// </summary>
    /// <param name="started">Called before each case.</param>
    /// <param name="ended">Called after each case, when all that it opened is closed.</param>
    /// <exception cref="OperationCanceledException">Cancelled between two cases.</exception>
    public static IReadOnlyList<ConformanceResult> Run(
        ConformanceContext context, IEnumerable<ConformanceCase> cases, Action<ConformanceCase>? started = null,
        Action<ConformanceResult>? ended = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(cases);
        var results = new List<ConformanceResult>();
        foreach (ConformanceCase current in cases)
        {
            cancellation.ThrowIfCancellationRequested();
            started?.Invoke(current);
            results.Add(RunOne(context, current));
            ended?.Invoke(results[^1]);
        }

        return results;
    }

    private static ConformanceResult RunOne(ConformanceContext context, ConformanceCase current)
    {
        try
        {
            using var run = new CaseRun(context) { MayUseTestDevice = IsAboutIommufd(current) };
            current.Body(run);
            run.Holds(run.Checks != 0, "the case to check something");
            return new ConformanceResult(current, ConformanceVerdict.Passed, null) { Unrepeatable = run.Unrepeatable };
        }
        catch (CaseEnded ended)
        {
            return new ConformanceResult(current, ended.Verdict, ended.Message);
        }
        catch (KernelException failure)
        {
            // A step that had to succeed was refused.
            return new ConformanceResult(current, ConformanceVerdict.Failed, failure.Message);
        }
        catch (Exception failure) when (failure is not OutOfMemoryException)
        {
            // An answer that makes no sense must not end the other cases.
            return new ConformanceResult(
                current, ConformanceVerdict.Failed,
                $"The case broke off ({failure.GetType().Name}): {failure.Message}");
        }
    }

    /// <summary>What a case says of VFIO can not be judged by a device without VFIO.</summary>
    private static bool IsAboutIommufd(ConformanceCase current) =>
        current.Name.StartsWith("iommufd.", StringComparison.Ordinal);

    private static List<ConformanceCase> Collect()
    {
        var cases = new List<ConformanceCase>();
        DispatchCases.AddTo(cases);
        ContextCases.AddTo(cases);
        IoasCases.AddTo(cases);
        IoasMapCases.AddTo(cases);
        AutomaticIovaCases.AddTo(cases);
        IoasCopyCases.AddTo(cases);
        IoasUnmapCases.AddTo(cases);
        OptionCases.AddTo(cases);
        DestroyCases.AddTo(cases);
        HwptCases.AddTo(cases);
        HwInfoCases.AddTo(cases);
        DirtyTrackingCases.AddTo(cases);
        DirtyBitmapCases.AddTo(cases);
        LeafSizeCases.AddTo(cases);
        DirtyFormatCases.AddTo(cases);
        IommuKindCases.AddTo(cases);
        AttachCases.AddTo(cases);
        VfioPasidCases.AddTo(cases);
        VfioBindCases.AddTo(cases);
        VfioInfoCases.AddTo(cases);
        VfioIrqCases.AddTo(cases);
        VfioFeatureCases.AddTo(cases);
        MigrationStateCases.AddTo(cases);
        MigrationStreamCases.AddTo(cases);
        DmaLoggingCases.AddTo(cases);
        IoeventfdCases.AddTo(cases);
        IntxCases.AddTo(cases);
        VfioPciCases.AddTo(cases);
        NoIommuCases.AddTo(cases);
        MttyDeviceCases.AddTo(cases);
        MttyInterruptCases.AddTo(cases);
        MttyAttachCases.AddTo(cases);
        MttyMigrationCases.AddTo(cases);
        LegacyContainerCases.AddTo(cases);
        LegacyGroupCases.AddTo(cases);
        LegacyDeviceCases.AddTo(cases);
        LegacyInfoCases.AddTo(cases);
        LegacyMapCases.AddTo(cases);
        LegacyDirtyCases.AddTo(cases);
        LegacyModeCases.AddTo(cases);
        CompatCases.AddTo(cases);
        CompatMapCases.AddTo(cases);
        TestDomainCases.AddTo(cases);
        TestDomainAccessCases.AddTo(cases);
        TestDomainDirtyCases.AddTo(cases);
        TestDomainNestedCases.AddTo(cases);
        TestDomainFaultCases.AddTo(cases);
        TestDomainViommuCases.AddTo(cases);
        TestDomainQueueCases.AddTo(cases);
        TestDomainPasidCases.AddTo(cases);
        DmaBufCases.AddTo(cases);
        return cases;
    }
}
