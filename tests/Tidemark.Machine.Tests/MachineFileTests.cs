using System.Text;
using System.Text.RegularExpressions;
using Tidemark.Machine.Description;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

public sealed partial class MachineFileTests
{
    private const string Good = """
        {
          // A comment, as people write them.
          "name": "web-1",
          "memory": { "size": "4GiB", "prefault": true, "hugePages": true },
          "workload": { "fill": "1GiB", "cpuWorkingSet": "64MiB", "cpuBytesPerSecond": 4096, "seed": 7 },
          "devices": [
            { "name": "nvme0", "host": "0000:01:00.0", "deviceDirtyTracking": "on", "arena": "64MiB", "isolated": true,
              "readBytesPerSecond": 0, "blockSize": "128KiB", "queueDepth": 16 },
          ],
          "softHost": {
            "iommus": [ { "name": "one", "dirtyTracking": false, "addressWidth": 39 } ],
            "devices": [
              { "address": "0000:01:00.0", "iommu": "one", "disk": "disks/a.img", "mode": "overlay", "overlay": "/var/b.img",
                "migration": true, "p2p": false, "preCopy": false, "dmaLogging": true,
                "internalState": "3MiB", "loadMilliseconds": 70 }
            ],
            "lockedMemory": "8MiB"
          }
        }
        """;

    [Fact]
    public void Every_value_of_a_good_file_arrives()
    {
        MachineDescription machine = Parse(Good, out IReadOnlyList<MachineFileProblem> problems)!;
        Assert.Empty(problems);
        Assert.Equal("web-1", machine.Name);
        Assert.Equal(4UL << 30, machine.MemoryBytes);
        Assert.True(machine.Prefault);
        Assert.True(machine.HugePages);
        Assert.Equal(
            new WorkloadDescription { FillBytes = 1UL << 30, CpuWorkingSetBytes = 64UL << 20, CpuBytesPerSecond = 4096, Seed = 7 },
            machine.Workload);
        Assert.Equal(
            new DeviceDescription
            {
                Name = "nvme0", Host = "0000:01:00.0", DirtyTracking = DeviceLogUse.On, ArenaBytes = 64UL << 20, Isolated = true,
                ReadBytesPerSecond = 0, BlockBytes = 128 << 10, QueueDepth = 16,
            },
            Assert.Single(machine.Devices));
        Assert.Equal(new SoftIommuDescription("one", false, 39), Assert.Single(machine.SoftHost!.Iommus));
        Assert.Equal(
            new SoftDeviceDescription
            {
                Address = "0000:01:00.0", Iommu = "one", Disk = "/base/disks/a.img", Mode = DiskMode.Overlay, Overlay = "/var/b.img",
                Migration = true, P2P = false, PreCopy = false, DmaLogging = true,
                InternalStateBytes = 3 << 20, LoadTime = TimeSpan.FromMilliseconds(70),
            },
            Assert.Single(machine.SoftHost.Devices));
        Assert.Equal(8UL << 20, machine.SoftHost.LockedMemoryBytes);
    }

    [Fact]
    public void What_is_left_out_has_the_documented_default()
    {
        MachineDescription machine = Parse("""{ "name": "a", "memory": { "size": 134217728 } }""", out _)!;
        Assert.Equal(128UL << 20, machine.MemoryBytes);
        Assert.False(machine.Prefault);
        Assert.False(machine.HugePages);
        Assert.Equal(new WorkloadDescription(), machine.Workload);
        Assert.Empty(machine.Devices);
        Assert.Null(machine.SoftHost);
    }

    [Fact]
    public void All_mistakes_in_form_are_reported_at_once_with_their_lines()
    {
        Assert.Null(Parse("""
            {
              "name": "-no",
              "memory": {
                "size": "3MiB",
                "prefault": "yes",
                "colour": 1
              },
              "workload": {
                "fill": "1 parsec",
                "cpuWorkingSet": 5000,
                "cpuBytesPerSecond": "2TiB",
                "seed": -1
              },
              "devices": [
                {
                  "name": "nvme0",
                  "host": "01:00.0",
                  "deviceDirtyTracking": "maybe",
                  "arena": "3MiB",
                  "blockSize": 1000,
                  "queueDepth": 64
                },
                { "host": 5 },
                7
              ],
              "softHost": {
                "iommus": {},
                "devices": [
                  { "address": "0000:0A:00.0",
                    "disk": "",
                    "mode": "rw",
                    "name": "x",
                    "address": "0000:0a:00.0" }
                ]
              },
              "extra": []
            }
            """, out IReadOnlyList<MachineFileProblem> problems));
        (int Line, string Part)[] expected =
        [
            (2, "\"name\" is \"-no\""), (4, "\"size\" must be a size from 4 MiB to 1 TiB and a multiple of 2 MiB"), (5, "true or false"),
            (6, "\"colour\" is not known in \"memory\""), (9, "\"fill\""), (10, "\"cpuWorkingSet\""), (11, "\"cpuBytesPerSecond\""),
            (12, "\"seed\""), (17, "\"host\" is \"01:00.0\""), (18, "\"auto\", \"on\", \"off\""), (19, "\"arena\""), (20, "\"blockSize\""),
            (21, "\"queueDepth\" must be a whole number from 1 to 63"), (23, "Entry 2 of \"devices\" lacks \"name\""),
            (23, "\"host\" must be a text"), (24, "Entry 3 of \"devices\" must be an object"), (27, "\"iommus\" must be a list"),
            (29, "lacks \"iommu\""), (29, "\"address\" is \"0000:0A:00.0\""), (30, "\"disk\" must be the path"),
            (31, "\"read-only\", \"overlay\", \"write-through\""), (32, "\"name\" is not known"), (33, "\"address\" stands twice"),
            (36, "\"extra\" is not known in the machine"),
        ];
        foreach ((int line, string part) in expected)
            Assert.Contains(problems, problem => problem.Line == line && problem.Text.Contains(part, StringComparison.Ordinal));
        Assert.Equal(expected.Length, problems.Count);
        Assert.Equal(problems.OrderBy(problem => problem.Line), problems);
    }

    [Fact]
    public void All_contradictions_between_the_parts_are_reported_at_once()
    {
        Assert.Null(Parse("""
            {
              "name": "m",
              "memory": { "size": "32MiB" },
              "devices": [
                { "name": "a", "host": "0000:01:00.0", "arena": "2MiB", "blockSize": "1MiB" },
                { "name": "a", "host": "0000:01:00.0", "arena": "4MiB" },
                { "name": "b", "host": "0000:09:00.0", "arena": "4MiB" }
              ],
              "softHost": {
                "iommus": [ { "name": "i", "addressWidth": 40 }, { "name": "i" } ],
                "devices": [
                  { "address": "0000:01:00.0", "iommu": "j", "disk": "d", "mode": "overlay" },
                  { "address": "0000:02:00.0", "iommu": "i", "disk": "d", "overlay": "o" },
                  { "address": "0000:02:00.0", "iommu": "i", "disk": "d", "migration": false, "p2p": true }
                ]
              }
            }
            """, out IReadOnlyList<MachineFileProblem> problems));
        (int Line, string Part)[] expected =
        [
            (4, "device name \"a\" is used 2 times"), (4, "host address \"0000:01:00.0\" is used 2 times"), (3, "is too small"),
            (3, "Device \"a\": 8 reads of 1 MiB"), (9, "IOMMU name \"i\""), (9, "soft device address \"0000:02:00.0\""),
            (9, "\"addressWidth\" must be 39, 48 or 57"), (9, "names IOMMU \"j\""), (9, "0000:01:00.0: \"overlay\""),
            (9, "0000:02:00.0: \"overlay\""), (9, "has \"migration\": false"), (4, "\"b\" is 0000:09:00.0"),
        ];
        foreach ((int line, string part) in expected)
            Assert.Contains(problems, problem => problem.Line == line && problem.Text.Contains(part, StringComparison.Ordinal));
        Assert.Equal(expected.Length, problems.Count);
    }

    [Theory]
    [InlineData("", 1)]
    [InlineData("{", 1)]
    [InlineData("{\n\"name\": \"a\",\n\"memory\": [}\n", 3)]
    [InlineData("{}\n\n7", 3)]
    [InlineData("not json", 1)]
    public void What_is_not_JSON_is_one_problem_with_its_line(string text, int line)
    {
        Assert.Null(Parse(text, out IReadOnlyList<MachineFileProblem> problems));
        MachineFileProblem problem = Assert.Single(problems);
        Assert.Equal(line, problem.Line);
        Assert.StartsWith("This is not JSON", problem.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[]")]
    [InlineData("7")]
    [InlineData("null")]
    public void A_document_that_is_no_object_is_refused(string text)
    {
        Assert.Null(Parse(text, out IReadOnlyList<MachineFileProblem> problems));
        Assert.Contains(problems, problem => problem.Text == "The machine must be an object in braces.");
    }

    [Fact]
    public void Hostile_bytes_never_throw()
    {
        var random = new Random(4);
        byte[] good = Encoding.UTF8.GetBytes(Good);
        for (int round = 0; round < 3000; round++)
        {
            byte[] bytes = [.. good];
            for (int change = random.Next(1, 6); change > 0; change--)
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            MachineFile.Parse(bytes, "/base", out _);
        }

        Assert.Null(Parse(string.Concat(Enumerable.Repeat("[", 100_000)), out _));
        Assert.Null(Parse("{\"\\ud800\": 1}", out _));
        Assert.Null(MachineFile.Parse([0xff, 0xfe, 0x00], "/base", out _));
        Assert.Null(Parse("""{ "name": "a", "memory": { "size": 99999999999999999999999999 } }""", out _));
    }

    [Fact]
    public void A_path_that_is_no_machine_file_is_one_problem()
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-file-tests-").FullName;
        try
        {
            Assert.Null(MachineFile.Read(Path.Combine(folder, "absent"), out IReadOnlyList<MachineFileProblem> problems));
            Assert.Equal("There is no such file.", Assert.Single(problems).ToString());
            Assert.Null(MachineFile.Read(folder, out problems));
            Assert.Contains("folder", Assert.Single(problems).Text, StringComparison.Ordinal);
            string large = Path.Combine(folder, "large");
            File.WriteAllBytes(large, new byte[MachineFile.MaximumBytes + 1]);
            Assert.Null(MachineFile.Read(large, out problems));
            Assert.Contains("at most 1 MiB", Assert.Single(problems).Text, StringComparison.Ordinal);

            string good = Path.Combine(folder, "machine.json");
            File.WriteAllText(good, Good);
            MachineDescription machine = MachineFile.Read(good, out problems)!;
            Assert.Equal(Path.Combine(folder, "disks/a.img"), machine.SoftHost!.Devices[0].Disk);
            Assert.Equal(folder, machine.BaseFolder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void The_documentation_lists_exactly_the_keys_that_are_known()
    {
        Parse("""
            { "x": 0, "memory": { "x": 0 }, "workload": { "x": 0 }, "devices": [ { "x": 0 } ],
              "softHost": { "x": 0, "iommus": [ { "x": 0 } ], "devices": [ { "x": 0 } ] } }
            """, out IReadOnlyList<MachineFileProblem> problems);
        string[] Known(string where) => [.. problems
            .Select(problem => problem.Text).Where(text => text.Contains($"\"x\" is not known in {where};", StringComparison.Ordinal))
            .SelectMany(text => text.Split("known are ")[1].TrimEnd('.').Split(", ")).Distinct()];
        // "devices" occurs twice: the machine's, then the soft host's.
        string[][] devices = [.. problems.Select(problem => problem.Text)
            .Where(text => text.Contains("in entry 1 of \"devices\"", StringComparison.Ordinal) && text.Contains("known are", StringComparison.Ordinal))
            .Select(text => text.Split("known are ")[1].TrimEnd('.').Split(", "))];
        Assert.Equal(2, devices.Length);
        string[] assigned = devices.Single(keys => keys.Contains("arena"));
        string[] hardware = devices.Single(keys => keys.Contains("disk"));

        string[] expected =
        [
            .. Known("the machine").Except(["memory", "workload", "devices", "softHost"]),
            .. Known("\"memory\"").Select(key => $"memory.{key}"), .. Known("\"workload\"").Select(key => $"workload.{key}"),
            .. assigned,
            .. Known("entry 1 of \"iommus\"").Select(key => $"iommus[].{key}"), .. hardware.Select(key => $"devices[].{key}"),
            "lockedMemory",
        ];
        Assert.Equal(["devices", "iommus", "lockedMemory"], Known("\"softHost\"").Order());
        string[] documented = [.. File.ReadLines(FindDocument()).Select(line => TableKey().Match(line)).Where(match => match.Success)
            .Select(match => match.Groups[1].Value)];
        Assert.Equal(expected.Order(StringComparer.Ordinal), documented.Order(StringComparer.Ordinal));
    }

    private static MachineDescription? Parse(string text, out IReadOnlyList<MachineFileProblem> problems) =>
        MachineFile.Parse(Encoding.UTF8.GetBytes(text), "/base", out problems);

    private static string FindDocument()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            string path = Path.Combine(folder.FullName, "docs", "reference", "machine-file.md");
            if (File.Exists(path))
                return path;
        }

        throw new FileNotFoundException("docs/reference/machine-file.md is in no folder above the test program.");
    }

    [GeneratedRegex(@"^\| `([^`]+)` \|")]
    private static partial Regex TableKey();
}
