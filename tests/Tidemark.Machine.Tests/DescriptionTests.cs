using System.Text;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Hosting;
using Tidemark.Machine.Transport;
using Tidemark.Memory;

namespace Tidemark.Machine.Tests;

public sealed class DescriptionTests
{
    private const ulong MiB = 1UL << 20;
    private const ulong GiB = 1UL << 30;

    [Fact]
    public void Nothing_in_the_layout_overlaps_and_all_of_it_lies_in_memory()
    {
        int checkedLayouts = 0;
        foreach (ulong memory in (ulong[])[4 * MiB, 16 * MiB, GiB, (3 * GiB) - (2 * MiB), 3 * GiB, (3 * GiB) + (2 * MiB), (3 * GiB) + (64 * MiB), 4 * GiB, 6 * GiB, 100 * GiB])
        {
            foreach (int devices in (int[])[0, 1, 2, 5, 32])
            {
                foreach (ulong arena in (ulong[])[2 * MiB, 32 * MiB])
                {
                    foreach (ulong workingSet in (ulong[])[4096, 3 * MiB, 48 * MiB])
                    {
                        if (CheckLayout(Describe(memory, devices, arena, workingSet, fill: 0)))
                            checkedLayouts++;
                    }
                }
            }
        }

        Assert.True(checkedLayouts > 100);
    }

    [Fact]
    public void A_machine_needs_exactly_the_bytes_that_are_stated()
    {
        MachineDescription machine = Describe(64 * MiB, 2, 8 * MiB, 4 * MiB, fill: 0);
        ulong needed = MemoryLayout.Plan(machine).NeededBytes;
        Assert.Equal((16 + 4 + 2) * MiB, needed);
        ulong room = (64 * MiB) - needed;
        Assert.Equal(64 * MiB, MemoryLayout.Plan(Describe(64 * MiB, 2, 8 * MiB, 4 * MiB, room)).NeededBytes);
        Assert.Equal((64 * MiB) + 1, MemoryLayout.Plan(Describe(64 * MiB, 2, 8 * MiB, 4 * MiB, room + 1)).NeededBytes);
    }

    [Theory]
    [InlineData("0", 0UL)]
    [InlineData("4096", 4096UL)]
    [InlineData("7B", 7UL)]
    [InlineData("64KiB", 65536UL)]
    [InlineData(" 3 mib ", 3UL << 20)]
    [InlineData("2GiB", 2UL << 30)]
    [InlineData("16777215TiB", 16777215UL << 40)]
    public void Good_sizes_are_read(string text, ulong expected)
    {
        Assert.True(ByteSize.TryParse(text, out ulong bytes));
        Assert.Equal(expected, bytes);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("GiB")]
    [InlineData("-1")]
    [InlineData("1.5GiB")]
    [InlineData("1MB")]
    [InlineData("1e6")]
    [InlineData("0x10")]
    [InlineData("16777216TiB")]
    [InlineData("18446744073709551616")]
    public void Bad_sizes_are_refused(string? text) => Assert.False(ByteSize.TryParse(text, out _));

    [Theory]
    [InlineData(0, "0 B")]
    [InlineData(1023, "1023 B")]
    [InlineData(1024, "1 KiB")]
    [InlineData(1536, "1.50 KiB")]
    [InlineData(101187584, "96.5 MiB")]
    [InlineData(1073741824, "1 GiB")]
    public void Sizes_are_written_shortly(double bytes, string expected) => Assert.Equal(expected, ByteSize.Format(bytes));

    [Theory]
    [InlineData("tcp:127.0.0.1:4711", "tcp:127.0.0.1:4711", true)]
    [InlineData("tcp:localhost:0", "tcp:localhost:0", true)]
    [InlineData("tcp:[::1]:65535", "tcp:[::1]:65535", true)]
    [InlineData("tcp:host.example:1", "tcp:host.example:1", false)]
    [InlineData("unix:/run/a", "unix:/run/a", null)]
    [InlineData("fd:3", "fd:3", null)]
    [InlineData("fd:3-5", "fd:3-5", null)]
    public void Good_addresses_are_read_and_written_alike(string text, string expected, bool? loopback)
    {
        MigrationAddress address = MigrationAddress.Parse(text, out string problem)!;
        Assert.Equal("", problem);
        Assert.Equal(expected, address.ToString());
        Assert.Equal(loopback, (address as MigrationAddress.Tcp)?.IsLoopback);
    }

    [Theory]
    [InlineData("")]
    [InlineData("host:4711")]
    [InlineData("tcp:host")]
    [InlineData("tcp:host:")]
    [InlineData("tcp::1")]
    [InlineData("tcp:host:65536")]
    [InlineData("tcp:host:-1")]
    [InlineData("tcp:::1:4711")]
    [InlineData("tcp:host:1 ")]
    [InlineData("unix:")]
    [InlineData("fd:")]
    [InlineData("fd:x")]
    [InlineData("fd:-1")]
    [InlineData("fd:4-3")]
    [InlineData("fd:3-")]
    [InlineData("fd:0-65")]
    [InlineData("fd:0-99999999999")]
    [InlineData("udp:host:1")]
    public void Bad_addresses_are_refused_with_a_sentence(string text)
    {
        Assert.Null(MigrationAddress.Parse(text, out string problem));
        Assert.Contains("is not an address", problem, StringComparison.Ordinal);
    }

    [Fact]
    public void A_unix_path_may_have_107_bytes_and_no_more()
    {
        Assert.NotNull(MigrationAddress.Parse("unix:/" + new string('a', 106), out _));
        Assert.Null(MigrationAddress.Parse("unix:/" + new string('a', 107), out string problem));
        Assert.Contains("107", problem, StringComparison.Ordinal);
        Assert.Null(MigrationAddress.Parse("unix:/" + new string('\u00e4', 54), out _));
    }

    [Fact]
    public void Equal_machines_have_no_differences_and_what_belongs_to_the_host_may_differ()
    {
        MachineDescription machine = Describe(64 * MiB, 2, 8 * MiB, 4 * MiB, fill: 0);
        ReadOnlyMemory<byte> here = MachineIdentity.Describe(machine, Disks(1, 2));
        MachineDescription elsewhere = machine with
        {
            Name = "other", Prefault = true, BaseFolder = "/there",
            Devices = [.. machine.Devices.Select(device => device with { Host = "0000:7f:00.0", ReadBytesPerSecond = 1 })],
        };
        Assert.Empty(MachineIdentity.FindDifferences(here, MachineIdentity.Describe(elsewhere, Disks(1, 2))));
    }

    [Fact]
    public void Each_difference_that_matters_is_named_with_both_values()
    {
        MachineDescription machine = Describe(64 * MiB, 1, 8 * MiB, 4 * MiB, fill: 0);
        ReadOnlyMemory<byte> here = MachineIdentity.Describe(machine, Disks(4096));
        DeviceDescription device = machine.Devices[0];
        (string Part, MachineDescription Other, ulong DiskBytes)[] cases =
        [
            ("machine.memoryBytes is 134217728 at the source and 67108864 here.", machine with { MemoryBytes = 128 * MiB }, 4096),
            ("machine.cpuWorkingSetBytes", machine with { Workload = machine.Workload with { CpuWorkingSetBytes = MiB } }, 4096),
            ("machine.devices[0].name", machine with { Devices = [device with { Name = "z" }] }, 4096),
            ("machine.devices[0].arenaBytes", machine with { Devices = [device with { ArenaBytes = MiB }] }, 4096),
            ("machine.devices[0].blockBytes", machine with { Devices = [device with { BlockBytes = 4096 }] }, 4096),
            ("machine.devices[0].queueDepth", machine with { Devices = [device with { QueueDepth = 1 }] }, 4096),
            ("machine.devices[0].isolated", machine with { Devices = [device with { Isolated = true }] }, 4096),
            ("machine.devices[0].diskBytes", machine, 8192),
            ("machine.devices: 0 at the source, 1 here.", machine with { Devices = [] }, 0),
        ];
        foreach ((string part, MachineDescription other, ulong diskBytes) in cases)
        {
            string difference = Assert.Single(MachineIdentity.FindDifferences(here, MachineIdentity.Describe(other, Disks(diskBytes))));
            Assert.StartsWith(part, difference, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_hostile_description_is_a_short_answer_and_never_an_exception()
    {
        ReadOnlyMemory<byte> here = MachineIdentity.Describe(Describe(64 * MiB, 3, 8 * MiB, 4 * MiB, fill: 0), Disks(1, 2, 3));
        var random = new Random(5);
        var hostile = new List<byte[]>
        {
            Array.Empty<byte>(), Encoding.UTF8.GetBytes("null"), Encoding.UTF8.GetBytes("[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"), new byte[] { 0xff, 0xfe },
            Encoding.UTF8.GetBytes("{\"\\ud800\":1}"), Encoding.UTF8.GetBytes("{\"version\":\"\\udfff\"}"),
            "{\"version\":\""u8.ToArray().Append((byte)0xc3).Concat("(\"}"u8.ToArray()).ToArray(),
            Encoding.UTF8.GetBytes("{" + string.Join(',', Enumerable.Range(0, 6000).Select(number => $"\"k{number}\":{number}")) + "}"),
            Encoding.UTF8.GetBytes("{\"" + new string('x', 60_000) + "\":1}"),
            Encoding.UTF8.GetBytes("{\"devices\":[" + string.Join(',', Enumerable.Repeat("{}", 20_000)) + "]}"),
            Encoding.UTF8.GetBytes(new string('[', 60_000)),
            Encoding.UTF8.GetBytes("{\"version\":" + new string('9', 60_000) + "}"),
        };
        for (int round = 0; round < 3000; round++)
        {
            byte[] changed = here.ToArray();
            for (int change = random.Next(1, 8); change > 0; change--)
                changed[random.Next(changed.Length)] = (byte)random.Next(256);
            hostile.Add(changed);
        }

        foreach (byte[] theirs in hostile)
        {
            IReadOnlyList<string> differences = MachineIdentity.FindDifferences(here, theirs);
            Assert.InRange(differences.Count, 0, 24);
            Assert.All(differences, difference => Assert.InRange(difference.Length, 1, 400));
        }

        Assert.All(hostile.Take(12), theirs => Assert.NotEmpty(MachineIdentity.FindDifferences(here, theirs)));
    }

    private static DeviceIdentity[] Disks(params ulong[] bytes) =>
        [.. bytes.Select(count => new DeviceIdentity(HandoverKind.States, count, []))];

    private static bool CheckLayout(MachineDescription sized)
    {
        ulong needed = MemoryLayout.Plan(sized).NeededBytes;
        if (needed > sized.MemoryBytes)
            return false;
        // As much fill as is allowed: then everything must still be apart.
        MachineDescription machine = sized with { Workload = sized.Workload with { FillBytes = sized.MemoryBytes - needed } };
        MemoryLayout layout = MemoryLayout.Plan(machine);
        Assert.Equal(machine.MemoryBytes, layout.NeededBytes);
        Assert.Equal(machine.MemoryBytes, layout.Slots.Aggregate(0UL, (sum, slot) => sum + slot.ByteLength));
        Assert.Equal(0UL, layout.Slots[0].Start.Value);
        Assert.True(layout.Slots[0].ByteLength <= 3 * GiB);
        if (layout.Slots.Count == 2)
            Assert.Equal(4 * GiB, layout.Slots[1].Start.Value);
        else
            Assert.True(machine.MemoryBytes <= 3 * GiB);
        (GuestPhysicalAddress lastStart, ulong lastBytes) = layout.Slots[^1];
        Assert.Equal(lastStart.Value + lastBytes - GuestPage.Size, layout.Heartbeat.Value);

        var parts = new List<(ulong Start, ulong End)> { (layout.Heartbeat.Value, layout.Heartbeat.Value + GuestPage.Size) };
        parts.Add((layout.WorkingSet.Start.Value, layout.WorkingSet.Start.Value + layout.WorkingSet.ByteLength));
        foreach ((GuestPhysicalAddress start, ulong byteLength) in layout.Arenas)
        {
            Assert.Equal(0UL, start.Value % (2 * MiB));
            parts.Add((start.Value, start.Value + byteLength));
        }

        ulong fill = layout.FillBytes;
        foreach ((GuestPhysicalAddress start, ulong byteLength) in layout.Slots)
        {
            ulong length = Math.Min(fill, byteLength);
            fill -= length;
            if (length > 0)
                parts.Add((start.Value, start.Value + length));
        }

        Assert.Equal(0UL, fill);
        foreach ((ulong start, ulong end) in parts)
        {
            Assert.Equal(0UL, start % GuestPage.Size);
            Assert.Contains(layout.Slots, slot => start >= slot.Start.Value && end <= slot.Start.Value + slot.ByteLength);
        }

        (ulong Start, ulong End)[] sorted = [.. parts.Order()];
        for (int index = 1; index < sorted.Length; index++)
            Assert.True(sorted[index - 1].End <= sorted[index].Start, $"{machine.MemoryBytes >> 20} MiB: 0x{sorted[index].Start:x} overlaps.");
        return true;
    }

    private static MachineDescription Describe(ulong memory, int devices, ulong arena, ulong workingSet, ulong fill) => new()
    {
        Name = "m",
        MemoryBytes = memory,
        Workload = new WorkloadDescription { FillBytes = fill, CpuWorkingSetBytes = workingSet },
        Devices = [.. Enumerable.Range(0, devices).Select(number =>
            new DeviceDescription { Name = $"d{number}", Host = $"0000:{number:x2}:00.0", ArenaBytes = arena })],
    };
}
