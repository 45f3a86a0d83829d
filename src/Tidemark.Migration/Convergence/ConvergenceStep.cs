namespace Tidemark.Migration;

/// <summary>What to do with the pages of a harvest.</summary>
public enum ConvergenceStep
{
    /// <summary>Send them while the machine runs.</summary>
    AnotherPass,

    /// <summary>Stop the machine and send them.</summary>
    SwitchOver,

    /// <summary>End the migration; the machine runs on here.</summary>
    GiveUp,
}
