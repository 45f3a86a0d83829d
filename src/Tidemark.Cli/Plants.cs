using Tidemark.Kernel.Soft;
using Tidemark.Machine;
using Tidemark.Migration;

namespace Tidemark.Cli;

/// <summary>A fault that can be planted, so that the check that must catch it is seen to fire.</summary>
internal sealed record Plant(
    string Name, string Description, SoftKernelFaults Kernel, GuestMachineFaults Machine, MigrationFaults Engine)
{
    /// <summary>LIMIT: a plant that was not caught in this many demos is not caught.</summary>
    public const int MaximumRuns = 5;

    public static IReadOnlyList<Plant> All { get; } =
    [
        new("skip-iotlb-drain", "clearing dirty bits neither flushes the IOTLB nor waits for writes in flight",
            SoftKernelFaults.SkipIotlbDrain, default, default),
        new("drop-source-iommu", "the IOMMU's dirty bits are left out of the union",
            default, GuestMachineFaults.DropIommuSource, default),
        new("drop-source-cpu", "the processor's writes are left out of the union",
            default, GuestMachineFaults.DropCpuSource, default),
        new("forget-last-word", "every harvest loses the last 64 pages of guest memory",
            default, default, MigrationFaults.ForgetLastWord),
        new("early-final-harvest", "the last harvest is taken before the writers stand still",
            default, default, MigrationFaults.EarlyFinalHarvest),
        new("resume-before-commit", "the source runs again between the last pass and the hand-over",
            default, default, MigrationFaults.ResumeBeforeCommit),
    ];

    /// <summary>Nothing planted.</summary>
    public static Plant None { get; } = new("", "", default, default, default);

    /// <exception cref="CommandFailure">There is no such plant.</exception>
    public static Plant Find(string? name) => name is null
        ? None
        : All.FirstOrDefault(plant => plant.Name == name) ?? throw new CommandFailure(
            $"There is no plant \"{name}\"; there are {string.Join(", ", All.Select(plant => plant.Name))}.", ExitCode.Usage);
}
