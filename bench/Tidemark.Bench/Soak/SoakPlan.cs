namespace Tidemark.Bench.Soak;

/// <summary>What is done to a migration.</summary>
internal enum SoakKind
{
    /// <summary>Nothing: it must complete.</summary>
    Move,

    /// <summary>Cancelled, by one of <see cref="SoakPlan.CancelWays"/>.</summary>
    Cancel,

    /// <summary>Connections break and may be made again: it must complete.</summary>
    CutAndResume,

    /// <summary>Connections break and the source may not try again: the machine stays.</summary>
    CutForGood,

    KillSource,
    KillDestination,

    /// <summary>Commit, or its acknowledgement, is lost, and nobody answers until the source has given up asking.</summary>
    Resolve,
}

/// <summary>Where the machine runs after a round.</summary>
internal enum SoakEnd
{
    Source,
    Destination,

    /// <summary>The process that had it was killed.</summary>
    Nowhere,
}

/// <summary>What rounds with one machine have in common; see <see cref="SoakPlan.BeginOfStretch"/>.</summary>
internal enum SoakStretch
{
    Moving,
    Staying,
    Held,
}

/// <summary>When something is done: so long after a phase has begun at the source.</summary>
internal sealed record SoakMoment(string Phase, int DelayMilliseconds);

/// <summary>Everything that is random about a round.</summary>
internal sealed record SoakPlan(int Round, SoakKind Kind, int Channels, bool Unix, bool Tls)
{
    /// <summary>
    /// Rounds with one shape of machine; it is begun anew after them. In those of the first kind it moves, in those of the
    /// second it mostly stays, and in those of the third it never gets further than the last pass before the switchover: one
    /// process lives through all of them, so that its leaks add up.
    /// </summary>
    private static readonly int[] s_stretches = [40, 24, 100];

    internal static readonly string[] CancelWays = ["source", "destination", "signal"];

    private const ushort Commit = 64;
    private const ushort Committed = 65;

    /// <summary>Frames of the control connection with which a phase begins or ends, both ways; Commit apart.</summary>
    private static readonly (bool ToDestination, ushort Type)[] s_frames =
    [
        (true, 2), (false, 3), (false, 5), (true, 16), (true, 48), (true, 49), (false, 50), (true, 51), (false, 52),
    ];

    /// <summary>The first of them, which come by before the switchover.</summary>
    private const int FramesBeforeSwitchover = 4;

    /// <summary>Less than pass 0 sends, however well it is compressed.</summary>
    private const long LeastPassBytes = 4L << 20;

    public string Compress { get; init; } = "off";

    /// <summary>MiB a second; 0: none.</summary>
    public int BandwidthLimit { get; init; }

    public bool Verify { get; init; } = true;

    /// <summary>The switchover waits until it is asked for.</summary>
    public bool Pause { get; init; }

    public int RetrySeconds { get; init; } = 15;

    /// <summary>How long the receiver waits for a source that was lost.</summary>
    public int WaitForSourceSeconds { get; init; } = 20;

    public SoakMoment? Moment { get; init; }

    public string CancelWay { get; init; } = "source";

    public IReadOnlyList<long> CutAfterBytes { get; init; } = [];

    public FrameTrap? Trap { get; init; }

    public bool HardCut { get; init; }

    /// <summary>Nobody can reach the destination any more, so that a person decides.</summary>
    public bool Operator { get; init; }

    /// <summary>Where the machine must run in the end, if that is certain before.</summary>
    public SoakEnd? Expected { get; init; }

    /// <summary>Whether connections go through the proxy.</summary>
    public bool NeedsProxy => CutAfterBytes.Count > 0 || Trap is not null;

    public override string ToString()
    {
        var words = new List<string> { $"round {Round}: {Kind}", $"{Channels} channels", Unix ? "unix" : "tcp", $"compress {Compress}" };
        words.AddRange(new (bool Said, string Word)[]
        {
            (Tls, "TLS"), (BandwidthLimit > 0, $"{BandwidthLimit} MiB/s"), (Verify, "verify"), (Pause, "pause"),
            (Moment is not null, $"at {Moment?.Phase} + {Moment?.DelayMilliseconds} ms"), (Kind == SoakKind.Cancel, $"by {CancelWay}"),
            (CutAfterBytes.Count > 0, $"cut after {string.Join(" and ", CutAfterBytes)} bytes"),
            (Trap is not null, $"{Trap?.Action} frame {Trap?.Type} to {(Trap?.ToDestination == true ? "destination" : "source")}"),
            (NeedsProxy && HardCut, "reset"), (Operator, "operator"), (true, $"retry {RetrySeconds} s"), (true, $"wait {WaitForSourceSeconds} s"),
        }.Where(word => word.Said).Select(word => word.Word));
        return string.Join(", ", words);
    }

    /// <summary>The first round of the stretch that a round belongs to.</summary>
    internal static int BeginOfStretch(int round) => FindStretch(round).Begin;

    private static (SoakStretch Stretch, int Begin) FindStretch(int round)
    {
        int begin = round - (round % s_stretches.Sum());
        int index = 0;
        while (round >= begin + s_stretches[index])
            begin += s_stretches[index++];
        return ((SoakStretch)index, begin);
    }

    internal static SoakPlan Draw(int seed, int round, bool compression)
    {
        var random = new Random(unchecked((seed * 1_000_003) + round));
        SoakStretch stretch = FindStretch(round).Stretch;
        bool held = stretch == SoakStretch.Held;
        SoakKind kind = stretch == SoakStretch.Moving
            ? Pick(
                random, (SoakKind.Move, 25), (SoakKind.CutAndResume, 27), (SoakKind.Cancel, 8), (SoakKind.KillSource, 13),
                (SoakKind.KillDestination, 13), (SoakKind.Resolve, 14))
            : Pick(random, (SoakKind.Cancel, 55), (SoakKind.CutForGood, 25), (SoakKind.KillDestination, 20));
        // A trap must be able to read frames.
        bool tls = kind != SoakKind.Resolve && random.Next(5) == 0;
        var plan = new SoakPlan(round, kind, random.Next(1, 5), random.Next(2) == 0, tls)
        {
            Compress = compression && random.Next(3) == 0 ? random.Next(2) == 0 ? "auto" : "always" : "off",
            BandwidthLimit = random.Next(4) == 0 ? random.Next(60, 400) : 0,
            Verify = random.Next(4) != 0,
            HardCut = random.Next(2) == 0,
            Pause = held,
        };
        return kind switch
        {
            SoakKind.Move => plan with { Pause = random.Next(4) == 0, Moment = new SoakMoment("precopy", random.Next(1500)) },
            SoakKind.Cancel => plan with
            {
                Pause = held || random.Next(2) == 0, Moment = DrawMoment(random), CancelWay = CancelWays[random.Next(CancelWays.Length)],
                WaitForSourceSeconds = 2,
            },
            SoakKind.CutAndResume => DrawCuts(plan, random, random.Next(1, 4)),
            SoakKind.CutForGood => DrawCuts(plan, random, 1) with { RetrySeconds = 0, WaitForSourceSeconds = 1 },
            SoakKind.KillSource => plan with { Moment = DrawMoment(random), RetrySeconds = 1, WaitForSourceSeconds = 1 },
            SoakKind.KillDestination => plan with { Moment = DrawMoment(random), RetrySeconds = 1 },
            SoakKind.Resolve => plan with
            {
                Operator = random.Next(3) == 0,
                Trap = random.Next(2) == 0
                    ? new FrameTrap(true, Commit, TrapAction.CutBefore)
                    : new FrameTrap(false, Committed, TrapAction.CutBefore),
            },
            _ => throw new InvalidOperationException($"The soak does not know {kind}."),
        };
    }

    private static SoakPlan DrawCuts(SoakPlan plan, Random random, int cuts)
    {
        // Some cuts at the frames with which phases begin and end; the others anywhere, and some of those in the handshake.
        if (!plan.Tls && random.Next(3) == 0)
        {
            (bool toDestination, ushort type) = s_frames[random.Next(plan.Pause ? FramesBeforeSwitchover : s_frames.Length)];
            bool verified = type is 51 or 52;
            return plan with
            {
                Trap = new FrameTrap(toDestination, type, random.Next(2) == 0 ? TrapAction.CutBefore : TrapAction.CutAfter),
                Verify = plan.Verify || verified,
            };
        }

        long most = plan.Pause ? LeastPassBytes : 70L << 20;
        return plan with
        {
            CutAfterBytes = [.. Enumerable.Range(0, cuts).Select(_ => random.Next(4) == 0 ? random.Next(4096) : random.NextInt64(most))],
        };
    }

    private static SoakMoment DrawMoment(Random random)
    {
        string phase = Pick(
            random, ("connect", 5), ("negotiate", 8), ("track", 7), ("precopy", 40), ("switchover", 15), ("verify", 12), ("commit", 13));
        return new SoakMoment(phase, phase == "precopy" ? random.Next(1000) : random.Next(25));
    }

    private static T Pick<T>(Random random, params (T Value, int Weight)[] choices)
    {
        int at = random.Next(choices.Sum(choice => choice.Weight));
        foreach ((T value, int weight) in choices)
        {
            at -= weight;
            if (at < 0)
                return value;
        }

        throw new InvalidOperationException("Nothing to choose from.");
    }
}

/// <summary>What kind of machine moves during a stretch of rounds.</summary>
internal sealed record SoakShape(bool HugePages, bool DriverAssisted, int CpuMegabytesPerSecond, int WorkingSetMegabytes)
{
    private static readonly int[] s_rates = [4, 16, 64, 200];

    internal static SoakShape Draw(int seed, int round)
    {
        var random = new Random(unchecked((seed * 7_919) + SoakPlan.BeginOfStretch(round)));
        return new SoakShape(random.Next(3) == 0, random.Next(4) == 0, s_rates[random.Next(s_rates.Length)], 4 << random.Next(3));
    }
}
