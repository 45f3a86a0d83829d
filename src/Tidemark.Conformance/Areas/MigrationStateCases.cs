using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Every request from every state, for each set of abilities: what is answered, where the device ends, and whether a
/// data stream is opened. A case needs a device of exactly these abilities.
/// </summary>
internal static class MigrationStateCases
{
    private const string Area = "migration-states";
    private const VfioMigrationFlags Basic = VfioMigrationFlags.StopCopy;

    private static readonly (string Name, VfioMigrationFlags Flags)[] Abilities =
    [
        ("stop-copy", Basic),
        ("p2p", Basic | VfioMigrationFlags.P2P),
        ("pre-copy", Basic | VfioMigrationFlags.PreCopy),
        ("p2p-pre-copy", Basic | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy),
    ];

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach ((string name, VfioMigrationFlags flags) in Abilities)
        {
            var table = new CaseTable(cases, Area, $"vfio.migration.{name}", "vfio.h, vfio_device_mig_state");
            foreach (VfioDeviceMigState from in MigrationSession.States)
            {
                if (!MigrationSession.Has(flags, from))
                    continue;
                foreach (VfioDeviceMigState to in MigrationSession.States)
                    AddRequest(table, flags, from, to);
            }

            AddFacts(table, flags);
        }
    }

    private static void AddRequest(CaseTable table, VfioMigrationFlags flags, VfioDeviceMigState from,
        VfioDeviceMigState to)
    {
        IReadOnlyList<VfioDeviceMigState>? path = MigrationSession.Path(flags, from, to);
        VfioDeviceMigState beforeLast = path is { Count: > 1 } ? path[^2] : from;
        bool opens = path is { Count: > 0 } && MigrationSession.Opens(beforeLast, to);
        string way = path is null ? "" : string.Join(", ", path);
        string stream = opens ? "the last step opens a stream" : "no stream is opened";
        string rule = path switch
        {
            null => "there is no way: EINVAL, and the device stays",
            { Count: 0 } => "nothing changes, and no stream is opened",
            _ => $"the way is {way}; {stream}",
        };
        table.Add($"{Word(from)}.to-{Word(to)}", $"from {from} to {to} {rule}", run =>
        {
            run.Use(DeviceNeed.States(flags));
            MigrationSession.Reach(run, from);
            Errno errno = MigrationSession.Request(run, to, out KernelFd? opened);
            run.Answers(errno, path is null ? Errno.EINVAL : Errno.Success, $"asking for {to}");
            run.Equal(path is null ? from : to, MigrationSession.StateOf(run), "the state afterwards");
            run.Equal(opens, opened is not null, "whether a stream was opened");
        });
    }

    private static void AddFacts(CaseTable table, VfioMigrationFlags flags)
    {
        table.Add("starts-running", "a device that was just opened is RUNNING", run =>
        {
            run.Use(DeviceNeed.States(flags));
            run.Equal(Running, MigrationSession.StateOf(run), "the state");
        });
        table.Add("unknown-state", "a state that does not exist is EINVAL", run =>
        {
            run.Use(DeviceNeed.States(flags));
            run.Answers(
                MigrationSession.Request(run, (VfioDeviceMigState)8, out _), Errno.EINVAL, "asking for state 8");
            run.Equal(Running, MigrationSession.StateOf(run), "the state");
        });
        table.Add("closing-ends-it", "a device that is opened again is RUNNING", run =>
        {
            run.Use(DeviceNeed.States(flags));
            DeviceProfile profile = run.Device.Profile;
            if (profile.IsMtty)
                throw CaseRun.NotApplicable("mtty keeps the state over a close; a case of its own says so.");
            MigrationSession.Enter(run, Stop);
            run.Device.File.Dispose();
            KernelFd file = run.OpenDevice(profile);
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
            run.Answers(run.Kernel.Ioctl(file, ref bind).Errno, Errno.Success, "binding again");
            var state = default(VfioDeviceFeatureMigState);
            run.Answers(run.Kernel.Feature(file, VfioDeviceFeatureFlags.Get, ref state).Errno, Errno.Success, "GET");
            run.Equal(Running, state.DeviceState, "the state");
        });
        table.Add("get-has-no-stream", "GET answers -1 as the stream, also while one is open", run =>
        {
            run.Use(DeviceNeed.States(flags));
            MigrationSession.Enter(run, StopCopy);
            var state = new VfioDeviceFeatureMigState { DataFd = 77 };
            run.Answers(
                run.Kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Get, ref state).Errno, Errno.Success, "GET");
            run.Equal(-1, state.DataFd, "data_fd");
        });
        foreach (VfioDeviceMigState from in MigrationSession.States)
        {
            if (!MigrationSession.Has(flags, from))
                continue;
            table.Add($"{Word(from)}.reset", $"a reset in {from} makes the device RUNNING", run =>
            {
                run.Use(DeviceNeed.States(flags));
                MigrationSession.Reach(run, from);
                Errno errno = run.Device.Reset();
                if (errno == Errno.EINVAL)
                    throw CaseRun.NotApplicable("The device can not be reset.");
                run.Answers(errno, Errno.Success, "VFIO_DEVICE_RESET");
                run.Equal(Running, MigrationSession.StateOf(run), "the state");
            });
        }
    }

    private static string Word(VfioDeviceMigState state) => state switch
    {
        StopCopy => "stop-copy",
        RunningP2P => "running-p2p",
        PreCopy => "pre-copy",
        PreCopyP2P => "pre-copy-p2p",
        _ => state.ToString().ToLower(CultureInfo.InvariantCulture),
    };
}
