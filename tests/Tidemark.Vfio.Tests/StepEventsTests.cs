using System.Collections.Concurrent;
using System.Diagnostics.Tracing;
using Microsoft.Extensions.Logging;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Logging;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Steps as events, with the values that a person needs to follow a device.</summary>
[Collection(Collection)]
public sealed class StepEventsTests : IDisposable
{
    /// <summary>
    /// Whoever listens makes every test of this process pay for its events: tests that count bytes are not run beside.
    /// </summary>
    public const string Collection = "steps";

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(Backend.Iommufd)]
    [InlineData(Backend.Legacy)]
    public void Every_step_of_a_device_is_told_with_its_values(Backend backend)
    {
        var logger = new CollectingLogger();
        using (new StepLogger(logger))
        {
            int number = backend == Backend.Iommufd ? 5 : 1;
            using var scene = new TrackedScene(_rig, backend, [number]);
            scene.Harvest();
            scene.Write(number, TrackedScene.FirstPage);
            scene.Harvest();
            scene.Map(1UL << 33, TrackedScene.WindowStart, 0x1000);
            scene.Container.Unmap(IovaRange.FromLength(new Iova(1UL << 33), 0x1000));
            scene.Devices[number].Migratable!.BeginSave();
            scene.Devices[number].Migratable!.EnterP2P();
            scene.Devices[number].Migratable!.Stop();
        }

        // Other tests of this process are told too: these are what this device must have caused.
        string[] names = backend == Backend.Iommufd
            ? ["IommufdOpened", "IoasAllocated", "DeviceOpened", "DeviceBound", "HardwareDescribed", "HwptAllocated", "DeviceAttached",
               "AreaMapped", "TrackerChosen", "DmaLogStarted", "DmaLogStopped", "DirtyPagesRead", "MigrationStateSet", "DeviceDetached",
               "AreaUnmapped", "ObjectDestroyed", "RegionDescribed"]
            : ["GroupJoined", "Type1Mapped", "Type1Unmapped", "TrackerChosen", "DirtyTrackingSet", "DirtyPagesRead", "MigrationStateSet"];
        string[] missing = [.. names.Except(logger.Lines.Select(line => line.Id.Name!))];
        Assert.True(missing.Length == 0, $"not told: {string.Join(", ", missing)}");
    }

    /// <summary>The values that a person compares with what was asked for: ids, ranges, page sizes, numbers of pages.</summary>
    [Fact]
    public void The_values_of_a_step_are_those_of_what_was_done()
    {
        var logger = new CollectingLogger();
        uint deviceId, table, ioas;
        int fd, iommufd;
        ulong capabilities;
        using (new StepLogger(logger))
        {
            using var scene = new TrackedScene(_rig, Backend.Iommufd, [5, 1]);
            scene.Harvest();
            scene.Write(5, TrackedScene.FirstPage);
            scene.Write(1, TrackedScene.FirstPage + 3);
            scene.Harvest();
            scene.Map(1UL << 33, TrackedScene.WindowStart, 0x3000);
            scene.Container.Unmap(IovaRange.FromLength(new Iova(1UL << 33), 0x3000));
            scene.Devices[5].Migratable!.BeginSave();
            scene.Devices[5].Migratable!.Estimate();
            scene.Devices[5].Migratable!.Recover();
            VfioDevice device = scene.Devices[5].Device;
            (fd, deviceId) = (device.Fd.Number, device.DeviceId!.Value);
            capabilities = (ulong)scene.Devices[5].Attachment.HostIommu!.Caps.Capabilities;
            (iommufd, ioas, table) = (scene.Iommufd.Iommufd.Fd.Number, scene.Iommufd.Ioas.Id, scene.Devices[5].Attachment.Entry!.Hwpt.Id);
        }

        Told("IoasAllocated", ("iommufd", iommufd), ("ioas", ioas));
        Told("DeviceOpened", ("device", "nvme5"), ("fd", fd));
        Told("DeviceBound", ("device", "nvme5"), ("iommufd", iommufd), ("fd", fd), ("deviceId", deviceId), ("outcome", "ok"));
        Told("HardwareDescribed", ("deviceId", deviceId), ("capabilities", capabilities), ("type", "IntelVtd"), ("pasidBits", 0u), ("outcome", "ok"));
        Told("HwptAllocated", ("deviceId", deviceId), ("parent", ioas), ("flags", "DirtyTracking"), ("hwpt", table), ("outcome", "ok"));
        Told("DeviceAttached", ("device", "nvme5"), ("asked", table), ("used", table), ("outcome", "ok"));
        Told("TrackerChosen", ("device", "nvme5"), ("tracker", "DeviceLog"));
        Told("AreaMapped", ("ioas", ioas), ("iova", 0UL), ("length", TrackedScene.WindowStart), ("access", "ReadWrite"), ("outcome", "ok"));
        Told("DmaLogStarted", ("device", "nvme5"), ("count", 1), ("pageSize", 4096UL), ("excessBytes", 0UL), ("outcome", "ok"));
        Told("DirtyTrackingSet", ("table", $"HWPT {table}"), ("on", true), ("outcome", "ok"));
        // 6 MiB from page 0, a bit for each page of 4 KiB; each device wrote one page and its queues.
        CollectingLogger.Line[] reads = [.. logger.Lines.Where(line => line.Id.Name == "DirtyPagesRead"
            && line.Values["length"] is TrackedScene.WindowStart && line.Values["bitmapBytes"] is 192UL && line.Values["guestPage"] is 0UL)];
        Assert.Contains(reads, line => ((string)line.Values["what"]!).Contains("nvme5", StringComparison.Ordinal) && (ulong)line.Values["dirtyPages"]! is > 0 and < 8);
        Assert.Contains(reads, line => ((string)line.Values["what"]!).Contains($"HWPT {table}", StringComparison.Ordinal) && (ulong)line.Values["dirtyPages"]! is > 0 and < 8);
        Told("AreaUnmapped", ("ioas", ioas), ("iova", 1UL << 33), ("length", 0x3000UL), ("unmapped", 0x3000UL), ("outcome", "ok"));
        Told("MigrationStateSet", ("device", "nvme5"), ("state", "PreCopy"), ("recovers", false), ("outcome", "ok"));
        Told("PrecopyEstimated", ("device", "nvme5"), ("outcome", "ok"));
        Told("DataSizeEstimated", ("device", "nvme5"), ("outcome", "ok"));
        Told("MigrationStateSet", ("device", "nvme5"), ("state", "Running"), ("stream", -1));
        Told("DmaLogStopped", ("device", "nvme5"), ("outcome", "ok"));
        Told("DeviceDetached", ("device", "nvme5"), ("outcome", "ok"));
        Told("ObjectDestroyed", ("id", table), ("outcome", "ok"));

        void Told(string name, params (string Name, object Value)[] values)
        {
            CollectingLogger.Line[] lines = [.. logger.Lines.Where(line => line.Id.Name == name)];
            Assert.True(
                lines.Any(line => values.All(value => value.Value.Equals(line.Values[value.Name]))),
                $"{name} {string.Join(", ", values)} is not among\n{string.Join("\n", lines.Select(line => line.Text))}");
        }
    }

    [Fact]
    public void An_event_is_a_sentence_with_names_and_values_beside_it_and_a_refusal_is_louder()
    {
        var logger = new CollectingLogger();
        using (new StepLogger(logger))
        {
            using Iommufd iommufd = _rig.OpenIommufd();
            using Ioas ioas = iommufd.AllocateIoas();
            ioas.MapFile(
                new Iova(0x7654_3000_0000), _rig.MemoryFile, 0x3000, 0x5000, _rig.Memory.Slots[0].Host, DmaAccess.Read);
            Assert.Throws<KernelException>(() => ioas.MapFile(
                new Iova(0x7654_3000_0000), _rig.MemoryFile, 0, 0x1000, _rig.Memory.Slots[0].Host, DmaAccess.Read));
        }

        CollectingLogger.Line[] maps = [.. logger.Lines.Where(line => line.Text.Contains("0x765430000000", StringComparison.Ordinal))];
        Assert.Equal(2, maps.Length);
        Assert.Equal((LogLevel.Debug, 3), (maps[0].Level, maps[0].Id.Id));
        Assert.EndsWith($"length 0x5000 of fd {_rig.MemoryFile.Number} offset 0x3000 for Read: ok", maps[0].Text, StringComparison.Ordinal);
        Assert.Equal(0x7654_3000_0000UL, maps[0].Values["iova"]);
        Assert.Equal(0x5000UL, maps[0].Values["length"]);
        Assert.Equal("ok", maps[0].Values["outcome"]);
        Assert.StartsWith("iommufd: IOAS {0} map", (string)maps[0].Values["{OriginalFormat}"]!, StringComparison.Ordinal);
        Assert.Equal((LogLevel.Information, "EEXIST"), (maps[1].Level, maps[1].Values["outcome"]));
    }

    [Fact]
    public void Every_event_has_a_number_of_its_own_and_a_sentence_for_all_of_its_values()
    {
        var methods = typeof(StepEvents).GetMethods()
            .Select(method => (Method: method, Event: (EventAttribute?)Attribute.GetCustomAttribute(method, typeof(EventAttribute))))
            .Where(pair => pair.Event is not null).ToArray();
        Assert.True(methods.Length >= 30);
        Assert.Equal(methods.Length, methods.Select(pair => pair.Event!.EventId).Distinct().Count());
        foreach ((var method, EventAttribute? attribute) in methods)
        {
            for (int index = 0; index < method.GetParameters().Length; index++)
                Assert.Contains($"{{{index}", attribute!.Message, StringComparison.Ordinal);
        }

        // The manifest is what tools read; EventSource makes none of a class it can not explain.
        Assert.NotNull(EventSource.GenerateManifest(typeof(StepEvents), "Tidemark", EventManifestOptions.Strict));
        Assert.Null(StepEvents.Log.ConstructionException);
    }

    private sealed class CollectingLogger : ILogger
    {
        public sealed record Line(LogLevel Level, EventId Id, string Text, IReadOnlyDictionary<string, object?> Values);

        public ConcurrentQueue<Line> Lines { get; } = new();

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            Lines.Enqueue(new Line(
                logLevel, eventId, formatter(state, exception),
                ((IReadOnlyList<KeyValuePair<string, object?>>)state!).ToDictionary(pair => pair.Key, pair => pair.Value)));
    }
}
