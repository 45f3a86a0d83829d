using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Conformance.Areas;

/// <summary>The envelope of VFIO_DEVICE_FEATURE, and which feature a device offers for what.</summary>
internal static class VfioFeatureCases
{
    private const string Area = "vfio-feature";

    /// <summary>Features by their answer to a probe, for devices that have them and for those that have not.</summary>
    private static readonly Offer[] Offers =
    [
        new(VfioDeviceFeatureIndex.Migration, Get, DeviceNeed.Migratable, DeviceNeed.NotMigratable),
        new(VfioDeviceFeatureIndex.MigDeviceState, Get | Set, DeviceNeed.Migratable, DeviceNeed.NotMigratable),
        new(VfioDeviceFeatureIndex.MigDataSize, Get, DeviceNeed.Migratable, DeviceNeed.NotMigratable),
        new(VfioDeviceFeatureIndex.DmaLoggingStart, Set, DeviceNeed.Logging, DeviceNeed.NotLogging),
        new(VfioDeviceFeatureIndex.DmaLoggingStop, Set, DeviceNeed.Logging, DeviceNeed.NotLogging),
        new(VfioDeviceFeatureIndex.DmaLoggingReport, Get, DeviceNeed.Logging, DeviceNeed.NotLogging),
        new(VfioDeviceFeatureIndex.LowPowerEntry, Set, DeviceNeed.Any, null),
        new(VfioDeviceFeatureIndex.LowPowerEntryWithWakeup, Set, DeviceNeed.Any, null),
        new(VfioDeviceFeatureIndex.LowPowerExit, Set, DeviceNeed.Any, null),
        new(VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set, DeviceNeed.PreCopying, null),
    ];

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddEnvelope(new CaseTable(cases, Area, "vfio.feature", "vfio.h, vfio_device_feature"));
        AddOffers(new CaseTable(cases, Area, "vfio.feature", "vfio.h, features of a device"));
        AddLowPower(new CaseTable(cases, Area, "vfio.feature.low-power",
            "vfio.h, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY"));
    }

    private static void AddEnvelope(CaseTable table)
    {
        table.Errors<Request>(
            run =>
            {
                run.Use(DeviceNeed.Migratable);
                return new Request(VfioDeviceFeatureIndex.Migration, Get);
            },
            (run, ref request) => request.Send(run),
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref request) => request.Argsz = 0),
            new("argsz-below-header", "argsz", Errno.EINVAL, (_, ref request) => request.Argsz = 7),
            new("unknown-flag", "operation", Errno.EINVAL,
                (_, ref request) => request.Flags |= (VfioDeviceFeatureFlags)0x80000),
            new("unknown-high-flag", "operation", Errno.EINVAL,
                (_, ref request) => request.Flags |= (VfioDeviceFeatureFlags)(1u << 31)),
            new("get-and-set", "operation", Errno.EINVAL, (_, ref request) => request.Flags |= Set),
            new("unknown-feature", "index", Errno.ENOTTY,
                (_, ref request) => request.Flags |= (VfioDeviceFeatureFlags)0x7FFF),
            new("highest-feature", "index", Errno.ENOTTY, (_, ref request) => request.Flags |= Mask),
            new("operation-not-offered", "operation index", Errno.EINVAL,
                (_, ref request) => request.Flags = Set | (VfioDeviceFeatureFlags)1),
            new("no-operation", "operation index", Errno.EINVAL, (_, ref request) => request.Flags &= Mask),
            new("payload-short", "argsz index", Errno.EINVAL, (_, ref request) => request.Argsz = 15));
        table.Add("null-pointer", "an argument that can not be read is EFAULT", run =>
            run.Answers(
                run.Kernel.IoctlValue(run.Device.File.Number, VfioRequests.DeviceFeature.Value, 0).Errno, Errno.EFAULT,
                "VFIO_DEVICE_FEATURE with a null pointer"));
        table.Add("probe-ignores-the-payload", "a probe needs no room for the payload", run =>
        {
            run.Use(DeviceNeed.Migratable);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.Migration, Probe | Get, 0), Errno.Success, "probing");
        });
        table.Add("probe-alone", "a probe of no operation asks whether the feature is there", run =>
        {
            run.Use(DeviceNeed.Migratable);
            run.Answers(
                run.Device.Probe(VfioDeviceFeatureIndex.Migration, VfioDeviceFeatureFlags.None), Errno.Success,
                "probing");
        });
        table.Add("probe-of-unknown-feature", "a probe of a feature that is not there is ENOTTY", run =>
            run.Answers(run.Device.Probe((VfioDeviceFeatureIndex)0x7FFF, Get), Errno.ENOTTY, "probing"));
        table.Add("probe-changes-nothing", "a probe of SET changes nothing", run =>
        {
            run.Use(DeviceNeed.Migratable);
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.MigDeviceState, Set), Errno.Success, "probing");
            run.Equal(VfioDeviceMigState.Running, MigrationSession.StateOf(run), "the state");
        });
        table.Add("larger-argsz", "more room than the payload needs is accepted", run =>
        {
            run.Use(DeviceNeed.Migratable);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.Migration, Get, 64), Errno.Success, "the call");
        });
    }

    private static void AddOffers(CaseTable table)
    {
        foreach (Offer offer in Offers)
        {
            string name = offer.Index.ToString().ToLower(CultureInfo.InvariantCulture);
            foreach ((string operationName, VfioDeviceFeatureFlags operation) in
                (ReadOnlySpan<(string, VfioDeviceFeatureFlags)>)[("get", Get), ("set", Set), ("get-and-set",
                    Get | Set)])
            {
                bool offered = (operation & ~offer.Operations) == 0;
                table.Add($"{name}.probe-{operationName}",
                    $"a probe tells whether {offer.Index} can be asked for {operationName}", run =>
                {
                    run.Use(offer.Present);
                    run.Answers(
                        run.Device.Probe(offer.Index, operation), offered ? Errno.Success : Errno.EINVAL,
                        $"probing {offer.Index}");
                });
            }

            if (offer.Absent is null)
                continue;
            table.Add($"{name}.absent", $"a device without {offer.Index} answers ENOTTY to a probe", run =>
            {
                run.Use(offer.Absent);
                run.Answers(run.Device.Probe(offer.Index, offer.Operations), Errno.ENOTTY, $"probing {offer.Index}");
            });
            table.Add($"{name}.absent-call", $"a device without {offer.Index} answers ENOTTY to a call", run =>
            {
                run.Use(offer.Absent);
                VfioDeviceFeatureFlags operation = offer.Operations.HasFlag(Get) ? Get : Set;
                run.Answers(run.Device.Feature(offer.Index, operation, 64), Errno.ENOTTY, $"calling {offer.Index}");
            });
        }

        table.Add("migprecopyinfov2.absent",
            "kernel behaviour: without PRE_COPY even a probe of this feature is EINVAL", run =>
        {
            run.Use(DeviceNeed.NotPreCopying);
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set), Errno.EINVAL, "probing");
        });
        table.Add("busmaster.absent", "a PCI device does not have BUS_MASTER: ENOTTY", run =>
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.BusMaster, Set), Errno.ENOTTY, "probing"));
        table.Add("zpcierror.absent", "a device of another architecture does not have ZPCI_ERROR: ENOTTY", run =>
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.ZpciError, Get), Errno.ENOTTY, "probing"));
        table.Add("migration.flags", "migration abilities always have STOP_COPY", run =>
        {
            run.Use(DeviceNeed.Migratable);
            var migration = default(VfioDeviceFeatureMigration);
            run.Answers(run.Kernel.Feature(run.Device.File, Get, ref migration).Errno, Errno.Success, "the call");
            run.Holds((migration.Flags & VfioMigrationFlags.StopCopy) != 0, "the flag STOP_COPY");
            const VfioMigrationFlags Known =
                VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;
            run.Equal(VfioMigrationFlags.None, migration.Flags & ~Known, "flags that the header does not have");
        });
        table.Add("migdatasize.running", "the size of the state is told while the device runs", run =>
        {
            run.Use(DeviceNeed.Migratable);
            var size = default(VfioDeviceFeatureMigDataSize);
            run.Answers(run.Kernel.Feature(run.Device.File, Get, ref size).Errno, Errno.Success, "the call");
        });
    }

    private static void AddLowPower(CaseTable table)
    {
        table.Add("enter-and-exit", "a device can enter low power and leave it", run =>
        {
            RequireLowPower(run);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set, 0), Errno.Success, "leaving");
        });
        table.Add("exit-when-awake", "leaving low power without having entered it is accepted", run =>
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set, 0), Errno.Success, "leaving"));
        table.Add("enter-twice", "entering low power twice is EINVAL", run =>
        {
            RequireLowPower(run);
            run.Answers(
                run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.EINVAL, "entering again");
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set, 0), Errno.Success, "leaving");
        });
        (string Name, int Fd, Errno Errno)[] wakeups =
        [
            ("wakeup-negative", -1, Errno.EINVAL), ("wakeup-not-open", 0x7FFF_0000, Errno.EBADF),
        ];
        foreach ((string name, int fd, Errno errno) in wakeups)
        {
            table.Add(name, $"a wakeup eventfd of {fd} is {errno}", run =>
            {
                VfioDeviceLowPowerEntryWithWakeup entry = VfioDeviceLowPowerEntryWithWakeup.Create(fd);
                run.Answers(run.Kernel.Feature(run.Device.File, Set, ref entry).Errno, errno, "entering");
            });
        }

        table.Add("wakeup-not-an-eventfd", "a wakeup descriptor that is no eventfd is EINVAL", run =>
        {
            VfioDeviceLowPowerEntryWithWakeup entry =
                VfioDeviceLowPowerEntryWithWakeup.Create(run.CreateMemoryFile(CaseRun.Page).Number);
            run.Answers(run.Kernel.Feature(run.Device.File, Set, ref entry).Errno, Errno.EINVAL, "entering");
        });
    }

    private static void RequireLowPower(CaseRun run) =>
        run.Answers(
            run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering low power");

    /// <param name="Operations">What can be asked of it.</param>
    /// <param name="Absent">Devices that answer ENOTTY, or null.</param>
    private sealed record Offer(
        VfioDeviceFeatureIndex Index, VfioDeviceFeatureFlags Operations, DeviceNeed Present, DeviceNeed? Absent);

    /// <summary>A feature call with a payload of 64 bytes of zeros; argsz says 16 unless told otherwise.</summary>
    private sealed class Request(VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation)
    {
        public uint Argsz { get; set; } = 16;

        public VfioDeviceFeatureFlags Flags { get; set; } = operation | (VfioDeviceFeatureFlags)index;

        public Errno Send(CaseRun run)
        {
            byte[] argument = new byte[72];
            BinaryPrimitives.WriteUInt32LittleEndian(argument, Argsz);
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), (uint)Flags);
            return run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceFeature.Value, argument).Errno;
        }
    }
}
