namespace Tidemark.Migration;

/// <summary>What to do about a machine that can not be moved within its downtime limit.</summary>
public enum WhenStuck
{
    /// <summary>End the migration at once with the figures; the machine runs on here.</summary>
    GiveUp,

    /// <summary>Go on until the passes or the time are used up: for machines that have quiet hours.</summary>
    Wait,

    /// <summary>Raise the limit by steps, up to a ceiling.</summary>
    RaiseLimit,

    /// <summary>Slow the processors down by steps. A device's own DMA is not slowed.</summary>
    Throttle,

    /// <summary>Move it now, whatever the downtime.</summary>
    SwitchOver,
}
