using System.Collections.Concurrent;
using System.Net.Sockets;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Description;
using Tidemark.Machine.LiveUpdate;

namespace Tidemark.Machine.Tests;

/// <summary>A machine on a soft host that goes from one process of that host to another, by the product's own link.</summary>
internal sealed class UpdateRig : IDisposable
{
    private readonly MachineRig _rig;
    private readonly ConcurrentQueue<int[]> _rights = new();

    public UpdateRig(MachineRig rig, MachineDescription description)
    {
        _rig = rig;
        Description = description;
        Soft = rig.CreateKernel(description);
        Process = NewProcess();
        Machine = MachineRig.Run(GuestMachine.Assemble(description, Process, Soft.Sysfs));
    }

    public MachineDescription Description { get; }

    public SoftKernel Soft { get; }

    /// <summary>The process that runs the machine.</summary>
    public UpdateProcess Process { get; private set; }

    public GuestMachine Machine { get; private set; }

    /// <summary>What the last update's giver and taker ended with; null when in order.</summary>
    public Exception? GiverFailure { get; private set; }

    public Exception? TakerFailure { get; private set; }

    /// <summary>4 KiB pages that are charged to the process that runs the machine.</summary>
    public ulong ChargedPages => Process.Process.Pinned.Count;

    public UpdateProcess NewProcess() => new(Soft, _rights);

    /// <summary>One live update to a process; afterwards <see cref="Process"/> is the one that runs the machine.</summary>
    /// <returns>Whether that is another one now.</returns>
    public bool Update(
        UpdateProcess next, Action<LiveUpdateStep, Socket>? atGiver = null, Action<LiveUpdateStep, Socket>? atTaker = null,
        Action? beginGiver = null, Action? beginTaker = null, CancellationToken cancellation = default)
    {
        (Socket here, Socket there) = UnixSockets.Connect();
        GuestMachine? taken = null;
        var taker = new Thread(() =>
        {
            using (there)
            {
                beginTaker?.Invoke();
                TakerFailure = Record.Exception(() => taken = LiveUpdateLink.TakeOver(
                    Description, next, Soft.Sysfs, there, out _, step => atTaker?.Invoke(step, there)));
                next.EndSweep();
            }
        });
        UpdateProcess before = Process;
        using (here)
        {
            taker.Start();
            beginGiver?.Invoke();
            GiverFailure = Record.Exception(() => LiveUpdateLink.HandOver(
                Machine, before, here, step => atGiver?.Invoke(step, here), cancellation));
            before.EndSweep();
        }

        taker.Join();
        before.DropRights();
        if (taken is null)
            return false;
        Machine.Dispose();
        (Machine, Process) = (taken, next);
        return true;
    }

    public void Dispose() => Machine.Dispose();
}
