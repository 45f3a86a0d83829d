namespace Tidemark.Bench.Soak;

/// <summary>
/// Each side killed while the other waits for each frame of the control connection. Where the machine must be afterwards
/// is certain:
/// <code>
/// held frame              source killed              destination killed
/// Hello ... Hashes        nowhere (it was there)     source
/// Commit                  nowhere                    source, after `resolve --run-here`: nobody knew whether it had arrived
/// Committed               destination                source, after `resolve --run-here`: it ran there, and died
/// Done                    destination                nowhere
/// </code>
/// </summary>
internal static class SoakSteps
{
    private const ushort Committed = 65;
    private const ushort Done = 66;

    /// <summary>Those of a migration over two channels, compared, in their order: to the destination, or back.</summary>
    private static readonly (bool ToDestination, ushort Type)[] s_frames =
    [
        (true, 2), (false, 3), (false, 5), (true, 16), (true, 48), (true, 49), (false, 50), (true, 51), (false, 52), (true, 64),
        (false, Committed), (true, Done),
    ];

    internal static SoakShape Shape { get; } = new(HugePages: false, DriverAssisted: false, 16, 4);

    /// <summary>One for each phase: connect, negotiate, precopy, switchover, verify, commit on its way there and back, done.</summary>
    private static readonly ushort[] s_phases = [2, 5, 16, 49, 51, 64, Committed, Done];

    internal static IEnumerable<SoakPlan> All(bool onlyPhases)
    {
        int round = 0;
        foreach ((bool toDestination, ushort type) in s_frames)
        {
            if (onlyPhases && !s_phases.Contains(type))
                continue;
            foreach (SoakKind kind in new[] { SoakKind.KillDestination, SoakKind.KillSource })
            {
                yield return new SoakPlan(round, kind, 2, Unix: round % 4 < 2, Tls: false)
                {
                    Trap = new FrameTrap(toDestination, type, TrapAction.Hold),
                    RetrySeconds = kind == SoakKind.KillSource ? 1 : 0,
                    WaitForSourceSeconds = 1,
                    Expected = (kind, type) switch
                    {
                        (SoakKind.KillSource, Committed or Done) => SoakEnd.Destination,
                        (SoakKind.KillSource, _) => SoakEnd.Nowhere,
                        (_, Done) => SoakEnd.Nowhere,
                        _ => SoakEnd.Source,
                    },
                };
                round++;
            }
        }
    }
}
