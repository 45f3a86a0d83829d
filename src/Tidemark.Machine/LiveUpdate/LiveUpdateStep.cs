namespace Tidemark.Machine.LiveUpdate;

/// <summary>Where a live update has got to, for whoever watches it or breaks it on purpose.</summary>
public enum LiveUpdateStep
{
    /// <summary>At the old process: the machine stands still, and the new one has all of it.</summary>
    Offered,

    /// <summary>At the new process: it has everything and has changed nothing yet.</summary>
    Adopted,

    /// <summary>At the new process: it is charged for the pages and has the interrupts; it has not said that it runs.</summary>
    Charged,

    /// <summary>At the new process: it has said that it runs, and lets the machine go now.</summary>
    Said,
}
