using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>A user's wish about whether a device may move (<c>migration</c>).</summary>
public enum MigrationUse
{
    /// <summary>It moves if it can; if not, it works all the same, and the machine stays.</summary>
    Auto,

    /// <summary>It must be able to move: a device that can not is refused when the machine starts.</summary>
    On,

    /// <summary>It does not move, and so the machine stays.</summary>
    Off,
}

/// <summary>What a user says about an assigned device.</summary>
public sealed record AssignmentOptions
{
    public static AssignmentOptions Default { get; } = new();

    /// <summary>Whether the device's own log of its DMA is used.</summary>
    public DeviceLogUse LogUse { get; init; } = DeviceLogUse.Auto;

    /// <summary>
    /// Whether its tracker is read while it runs. Without, all that it wrote is sent while the machine is stopped; its
    /// neighbours are read as ever.
    /// </summary>
    public bool PrecopyTracking { get; init; } = true;

    /// <summary>Whether it may move.</summary>
    public MigrationUse Migration { get; init; } = MigrationUse.Auto;

    /// <summary>A device that nobody tracks is an obstacle instead of a stated cost.</summary>
    public bool RequireTracker { get; init; }

    /// <summary>Its page table will be the parent of a guest's own.</summary>
    public bool NestingParent { get; init; }
}
