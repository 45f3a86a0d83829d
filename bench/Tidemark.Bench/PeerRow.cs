namespace Tidemark.Bench;

/// <summary>What one row of `peer` moves, and what is asked of it.</summary>
/// <param name="Filled">The part of memory, from its beginning, that is incompressible; the rest is zeros.</param>
/// <param name="SourceTouched">False: what is not filled was never written, and has no memory.</param>
internal sealed record PeerRow(
    string Name, string Says, int Channels, bool Unix, double Filled, bool SourceTouched, bool DestinationTouched)
{
    /// <summary>What must come out: a figure of each pair, and the bound of its median.</summary>
    internal required PeerTarget[] Targets { get; init; }

    /// <summary>Loopback with every page checked on both sides is measured, too, right after.</summary>
    internal bool ComparesWithChecked { get; init; }

    /// <summary>Reading as many zeros with as many threads, and nothing else, is measured, too, right after.</summary>
    internal bool ComparesWithReading { get; init; }

    /// <summary>Ours is measured with all memory incompressible, too, right after.</summary>
    internal bool ComparesWithFull { get; init; }

    internal static PeerRow[] All { get; } =
    [
        new("two-streams", "incompressible, destination touched, 2 TCP streams", 2, false, 1, true, true)
        {
            ComparesWithChecked = true,
            Targets =
            [
                PeerTarget.Speed(1.0), PeerTarget.OfLoopback(0.9), PeerTarget.Cpu(0.9), PeerTarget.CpuOfLoopback(1.1),
                .. PeerTarget.OfChecked,
            ],
        },
        new("one-stream", "incompressible, destination touched, 1 TCP stream", 1, false, 1, true, true)
        {
            ComparesWithChecked = true,
            Targets = [PeerTarget.Speed(1.6), PeerTarget.OfLoopback(0.85), .. PeerTarget.OfChecked],
        },
        new("unix", "incompressible, destination touched, 1 Unix socket", 1, true, 1, true, true)
        {
            ComparesWithChecked = true,
            Targets = [PeerTarget.Speed(1.6), PeerTarget.OfLoopback(0.85), .. PeerTarget.OfChecked],
        },
        new("untouched", "incompressible, destination never touched, 2 TCP streams", 2, false, 1, true, false)
        {
            Targets = [PeerTarget.Speed(1.2), PeerTarget.Cpu(0.9)],
        },
        new("zeros", "written zeros, 2 TCP streams", 2, false, 0, true, true)
        {
            ComparesWithReading = true,
            Targets = [PeerTarget.Speed(2), PeerTarget.Cpu(0.4), .. PeerTarget.OfReading],
        },
        new("half-zeros", "first half incompressible, second written zeros, 2 TCP streams", 2, false, 0.5, true, true)
        {
            ComparesWithFull = true,
            Targets = [PeerTarget.TimeOfFull(0.6), PeerTarget.Speed(1.0)],
        },
        new("holes", "memory never touched, 2 TCP streams", 2, false, 0, false, false)
        {
            Targets = [PeerTarget.Rate(50e9), PeerTarget.Speed(2), PeerTarget.Cpu(0.4)],
        },
    ];
}

/// <param name="Bound">Of the median; null: it is only told.</param>
/// <param name="AtLeast">False: the bound is a largest value.</param>
internal sealed record PeerTarget(string Name, Func<PeerPair, double> Of, double? Bound, bool AtLeast)
{
    /// <summary>How near we are to what checking every page leaves of loopback, and what it leaves.</summary>
    internal static PeerTarget[] OfChecked { get; } =
    [
        new("pass 0 / checked loopback", pair => pair.Ours.MemoryBytes / pair.Ours.PassSeconds / pair.Checked.BytesPerSecond, null, true),
        new("CPU / checked loopback", pair => pair.Ours.CpuSecondsPerGigabyte / pair.Checked.CpuSecondsPerGigabyte, null, false),
        new("checked / plain loopback", pair => pair.Checked.BytesPerSecond / pair.Loopback.BytesPerSecond, null, true),
        new("CPU, checked / plain", pair => pair.Checked.CpuSecondsPerGigabyte / pair.Loopback.CpuSecondsPerGigabyte, null, false),
    ];

    /// <summary>How near we are to only reading, and what somebody who only reads would reach.</summary>
    internal static PeerTarget[] OfReading { get; } =
    [
        new("pass 0 / reading", pair => pair.Reading.Seconds / pair.Ours.PassSeconds, null, true),
        new("CPU / reading", pair => pair.Ours.CpuSeconds / pair.Reading.CpuSeconds, null, false),
        new("reading / QEMU", pair => pair.Qemu.Seconds / pair.Reading.Seconds, null, true),
        new("CPU, reading / QEMU", pair => pair.Reading.CpuSeconds / pair.Qemu.CpuSeconds, null, false),
    ];

    internal bool IsMet(double median) => Bound is not { } bound || (AtLeast ? median >= bound : median <= bound);

    internal static PeerTarget Speed(double bound) =>
        new("speed / QEMU", pair => pair.Qemu.Seconds / pair.Ours.Seconds, bound, true);

    internal static PeerTarget Cpu(double bound) =>
        new("CPU / QEMU", pair => pair.Ours.CpuSeconds / pair.Qemu.CpuSeconds, bound, false);

    internal static PeerTarget OfLoopback(double bound) =>
        new("speed / loopback", pair => pair.Ours.BytesPerSecond / pair.Loopback.BytesPerSecond, bound, true);

    internal static PeerTarget CpuOfLoopback(double bound) =>
        new("CPU / loopback", pair => pair.Ours.CpuSecondsPerGigabyte / pair.Loopback.CpuSecondsPerGigabyte, bound, false);

    internal static PeerTarget TimeOfFull(double bound) =>
        new("time / incompressible", pair => pair.Ours.Seconds / pair.OursFull.Seconds, bound, false);

    internal static PeerTarget Rate(double bound) =>
        new("GB/s of pass 0", pair => pair.Ours.MemoryBytes / pair.Ours.PassSeconds / 1e9, bound / 1e9, true);
}

/// <summary>All memory of a machine, moved once.</summary>
/// <param name="Seconds">From the command to the completion.</param>
/// <param name="PassSeconds">Of it, the pass that carried all memory; where it is not known, all.</param>
/// <param name="CpuSeconds">Processor time of both processes from the command to the completion.</param>
internal readonly record struct Move(ulong MemoryBytes, double Seconds, double PassSeconds, double CpuSeconds, double PauseMilliseconds)
{
    internal double BytesPerSecond => MemoryBytes / Seconds;

    internal double CpuSecondsPerGigabyte => CpuSeconds / (MemoryBytes / 1e9);
}

/// <param name="Loopback">The mean of a probe right before and one right after.</param>
/// <param name="Checked">Where <see cref="PeerRow.ComparesWithChecked"/> says so.</param>
/// <param name="Reading">Where <see cref="PeerRow.ComparesWithReading"/> says so.</param>
/// <param name="OursFull">Where <see cref="PeerRow.ComparesWithFull"/> says so.</param>
internal sealed record PeerPair(Transfer Loopback, Transfer Checked, Transfer Reading, Move Ours, Move OursFull, Move Qemu, string Load);
