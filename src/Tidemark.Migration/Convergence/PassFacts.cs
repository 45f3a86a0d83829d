namespace Tidemark.Migration;

/// <summary>What is known when the harvest after a pass has been taken. Page counts are of guest pages.</summary>
internal readonly record struct PassFacts
{
    /// <summary>The pass that ended.</summary>
    public int Pass { get; init; }

    /// <summary>What the next pass has to bring: this harvest, those taken during the pass, and pages held back.</summary>
    public ulong DirtyPages { get; init; }

    /// <summary>Of these the ones written during <see cref="Interval"/>: all but those only held back.</summary>
    public ulong FreshPages { get; init; }

    /// <summary>From the harvest that began the pass to this one.</summary>
    public TimeSpan Interval { get; init; }

    /// <summary>From this harvest to now; the machine has been writing.</summary>
    public TimeSpan SinceHarvest { get; init; }

    /// <summary>Pages sent with content.</summary>
    public ulong SentPages { get; init; }

    public ulong ZeroPages { get; init; }

    /// <summary>Looked at, and not sent because the destination has them.</summary>
    public ulong UnchangedPages { get; init; }

    /// <summary>Pages left to the next pass, because a harvest during the pass found them written again.</summary>
    public ulong SkippedPages { get; init; }

    /// <summary>Bytes of the pass that were acknowledged in its time.</summary>
    public ulong Bytes { get; init; }

    /// <summary>All of its bytes, those on their way included; null: all were acknowledged.</summary>
    public ulong? SentBytes { get; init; }

    /// <summary>Until everything was sent, or acknowledged where that was waited for.</summary>
    public TimeSpan Duration { get; init; }

    /// <summary>The last harvest, after the pass.</summary>
    public TimeSpan HarvestTime { get; init; }

    /// <summary>The shortest since the pass before; null: as the last one.</summary>
    public TimeSpan? QuickestHarvest { get; init; }

    /// <summary>What parts have to send after the stop.</summary>
    public ulong StateBytes { get; init; }

    /// <summary>A part can not tell: <see cref="StateBytes"/> is a lower bound, and said to be one.</summary>
    public bool StateUnknown { get; init; }

    /// <summary>Dirty in this harvest and in the one before; see <see cref="HotPages"/>.</summary>
    public ulong HotPages { get; init; }

    /// <summary>Share of the pages hot before that are dirty once more, 0 to 1.</summary>
    public double HotAgain { get; init; }

    public FixedCosts Costs { get; init; }

    /// <summary>Since the first pass began.</summary>
    public TimeSpan Elapsed { get; init; }

    /// <summary>There are processors whose throttle would slow the writing down.</summary>
    public bool CanThrottle { get; init; }

    internal ulong BytesOfPages => SentBytes ?? Bytes;

    public ulong HandledPages => SentPages + ZeroPages + UnchangedPages;
}
