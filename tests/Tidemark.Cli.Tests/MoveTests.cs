using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

public sealed class MoveTests
{
    [Fact]
    public void Strangers_do_not_end_a_receiver_and_a_machine_still_moves()
    {
        using var scene = new Scene();
        CommandLine source = scene.StartMachine("quiet.json");
        (CommandLine receiver, string address) = scene.StartReceiver("quiet.json");
        int port = int.Parse(address.Split(':')[^1]);
        byte[] noise = new byte[10_000];
        new Random(2).NextBytes(noise);
        foreach (byte[] greeting in new[] { "GET / HTTP/1.1\r\nHost: here\r\n\r\n"u8.ToArray(), noise, [] })
            Greet(port, greeting);

        JsonNode result = JsonNode.Parse(scene.Expect(0, "migrate", "quiet", address, "--verify", "--json").Output)!;

        Assert.Equal("completed", (string?)result["outcome"]);
        Assert.True((bool)result["verified"]!["memoryEqual"]!);
        Assert.Equal(0, source.WaitForEnd());
        Scene.WaitFor(receiver, () => receiver.Output.Contains("runs here now", StringComparison.Ordinal));
        Assert.Equal("running", (string?)scene.Status("there")["state"]);
        scene.Expect(0, "stop", "there");
        Assert.Equal(0, receiver.WaitForEnd());
    }

    [Theory]
    [InlineData("run", "quiet.json")]
    [InlineData("receive", "quiet.json", "--listen", "tcp:127.0.0.1:0")]
    public void Both_sides_rehearse_a_migration_to_themselves_before_the_first_real_one(params string[] words)
    {
        using var scene = new Scene();
        CommandLine process = scene.Start([.. words, "--verbose"]);
        long folderSeen = 0;
        Scene.WaitFor(process, () =>
        {
            if (Directory.EnumerateDirectories(scene.Folder, "tidemark-rehearsal-*").Any())
                folderSeen = Stopwatch.GetTimestamp();
            return process.All.Contains("The rehearsal of a migration ended with completed", StringComparison.Ordinal);
        });
        // Gone long before its end: a process that ends in the middle of it leaves nothing.
        Assert.True(folderSeen == 0 || Stopwatch.GetElapsedTime(folderSeen) > TimeSpan.FromMilliseconds(50), "the rehearsal's folder was there to its end");
    }

    [Fact]
    public void A_machine_moves_encrypted_with_certificates_made_by_the_command()
    {
        using var scene = new Scene();
        CommandLine made = scene.Expect(0, "certificates", "pki", "--host", "127.0.0.1", "--host", "hosta", "--host", "hostb");
        Assert.Equal(["pki/ca", "pki/127.0.0.1", "pki/hosta", "pki/hostb"], made.Output.Trim().Split('\n'));
        scene.Expect(1, "certificates", "pki", "--host", "hosta");
        CommandLine source = scene.StartMachine("quiet.json");
        (CommandLine receiver, string address) = scene.StartReceiver("quiet.json", "--tls", "pki/127.0.0.1", "--tls-peer", "hosta");

        // Nobody gets in without the right certificate, and the machine goes on where it is.
        Assert.Contains("say --tls FOLDER", scene.Expect(1, "migrate", "quiet", address).All, StringComparison.Ordinal);
        Assert.Contains("not for hosta", scene.Expect(1, "migrate", "quiet", address, "--tls", "pki/hostb").All, StringComparison.Ordinal);
        Assert.Contains("not for hostb; say --tls-peer", scene.Expect(1, "migrate", "quiet", address, "--tls", "pki/hosta", "--tls-peer", "hostb").All, StringComparison.Ordinal);
        Assert.Contains("does not exist", scene.Expect(64, "migrate", "quiet", address, "--tls", "pki/none").All, StringComparison.Ordinal);
        AssertRunsAtSource(scene, "quiet");

        JsonNode result = JsonNode.Parse(scene.Expect(
            0, "migrate", "quiet", address, "--tls", "pki/hosta", "--bandwidth-limit", "1GiB", "--verify", "--json").Output)!;
        Assert.Equal("completed", (string?)result["outcome"]);
        Assert.True((bool)result["verified"]!["memoryEqual"]!);
        Assert.Equal(0, source.WaitForEnd());
        Scene.WaitFor(receiver, () => receiver.Output.Contains("runs here now", StringComparison.Ordinal));
        scene.Expect(0, "stop", "there");
        Assert.Equal(0, receiver.WaitForEnd());
    }

    [Fact]
    public void A_machine_that_passes_the_limit_of_locked_memory_is_told_which_limit_and_what_to_do()
    {
        using var scene = new Scene();
        string file = Path.Combine(scene.Folder, "quiet.json");
        string text = File.ReadAllText(file);
        File.WriteAllText(file, text.Replace("\"softHost\": {", "\"softHost\": { \"lockedMemory\": \"8MiB\",", StringComparison.Ordinal));
        CommandLine failed = scene.Expect(1, "run", "quiet.json");
        Assert.Contains("ENOMEM", failed.All, StringComparison.Ordinal);
        Assert.Contains("RLIMIT_MEMLOCK", failed.All, StringComparison.Ordinal);
        Assert.Contains("LimitMEMLOCK=infinity", failed.All, StringComparison.Ordinal);
        File.WriteAllText(file, text.Replace("\"softHost\": {", "\"softHost\": { \"lockedMemory\": \"128MiB\",", StringComparison.Ordinal));
        scene.StartMachine("quiet.json");
    }

    [Fact]
    public void The_dirty_rate_of_a_machine_is_told_by_source_and_the_machine_goes_on()
    {
        using var scene = new Scene();
        CommandLine source = scene.StartMachine("quiet.json");
        JsonNode rate = JsonNode.Parse(
            scene.Expect(0, "dirty-rate", "quiet", "--seconds", "0.5", "--json").Output)!;
        Assert.Equal("measurement", (string?)rate["during"]);
        JsonArray sources = rate["sources"]!.AsArray();
        Assert.Equal(["cpu", "iommu"], sources.Select(entry => (string?)entry!["kind"]));
        Assert.All(sources, entry => Assert.True((double)entry!["bytesPerSecond"]! > 0, entry.ToJsonString()));
        // Nobody wrote all of memory in half a second: what was dirty before is not counted.
        Assert.InRange((ulong)rate["pages"]!, 2UL, (64UL << 20 >> 12) - 1);
        Assert.Contains("together", scene.Expect(0, "dirty-rate", "quiet", "--seconds", "0.1").Output, StringComparison.Ordinal);
        scene.Expect(64, "dirty-rate", "quiet", "--seconds", "0");
        scene.Expect(1, "dirty-rate", "nobody");
        AssertRunsAtSource(scene, "quiet");
        scene.Expect(0, "stop", "quiet");
        Assert.Equal(0, source.WaitForEnd());
    }

    [Fact]
    public void A_migration_does_not_wait_for_a_measurement_and_a_question_does_not_disturb_a_migration()
    {
        using var scene = new Scene();
        scene.StartMachine("busy.json");
        (_, string address) = scene.StartReceiver("busy.json");
        CommandLine measuring = scene.Start("dirty-rate", "busy", "--seconds", "60", "--json");
        Scene.WaitFor(measuring, () => (string?)scene.Status("busy")["state"] == "measuring");
        CommandLine migrate = StartEndlessMigration(scene, address);
        // Cut short, and what was seen until then is the answer.
        Assert.Equal(0, measuring.WaitForEnd());
        JsonNode? during = null;
        Scene.WaitFor(migrate, () =>
        {
            CommandLine asked = scene.Start("dirty-rate", "busy", "--json");
            if (asked.WaitForEnd() != 0)
                return false;
            during = JsonNode.Parse(asked.Output);
            return true;
        });
        Assert.Equal("migration", (string?)during!["during"]);
        Assert.True((ulong)during["pages"]! > 0);
        Assert.Equal("migrating", (string?)scene.Status("busy")["state"]);
        scene.Expect(0, "cancel", "busy");
        Assert.Equal(1, migrate.WaitForEnd());
        AssertRunsAtSource(scene, "busy");
    }

    [Fact]
    public void A_machine_that_differs_is_refused_with_every_reason()
    {
        using var scene = new Scene();
        scene.StartMachine("quiet.json");
        (_, string address) = scene.StartReceiver(scene.WriteMachine("other", "128MiB", "4MiB", "4MiB", device: "nvme7"));
        CommandLine migrate = scene.Expect(1, "migrate", "quiet", address);
        Assert.Contains("memory", migrate.Output, StringComparison.OrdinalIgnoreCase);
        Assert.Contains("nvme7", migrate.Output, StringComparison.Ordinal);
        AssertRunsAtSource(scene, "quiet");
    }

    [Fact]
    public async Task A_peer_that_is_not_Tidemark_or_not_there_leaves_the_machine_running()
    {
        using var scene = new Scene();
        scene.StartMachine("quiet.json");
        using var server = new TcpListener(System.Net.IPAddress.Loopback, 0);
        server.Start();
        int port = ((System.Net.IPEndPoint)server.LocalEndpoint).Port;
        CommandLine migrate = scene.Start("migrate", "quiet", $"tcp:127.0.0.1:{port}");
        using (Socket client = await server.AcceptSocketAsync().WaitAsync(TimeSpan.FromSeconds(30)))
        {
            client.Send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"u8);
            Assert.Equal(1, migrate.WaitForEnd());
        }

        Assert.Contains("is not Tidemark", migrate.Output, StringComparison.Ordinal);
        server.Stop();
        Assert.Contains("nobody listens", scene.Expect(1, "migrate", "quiet", $"tcp:127.0.0.1:{port}").Output, StringComparison.Ordinal);
        AssertRunsAtSource(scene, "quiet");
    }

    [Fact]
    public void A_killed_destination_leaves_the_machine_running_at_the_source()
    {
        using var scene = new Scene();
        scene.StartMachine("busy.json");
        (CommandLine receiver, string address) = scene.StartReceiver("busy.json");
        CommandLine migrate = StartEndlessMigration(scene, address);
        receiver.Kill();
        Assert.Equal(1, migrate.WaitForEnd());
        Assert.Contains("The machine runs here.", migrate.Output, StringComparison.Ordinal);
        AssertRunsAtSource(scene, "busy");
        // What the killed process left behind is no obstacle.
        scene.StartReceiver("busy.json");
    }

    [Fact]
    public void A_killed_source_ends_the_receiver_with_1()
    {
        using var scene = new Scene();
        CommandLine source = scene.StartMachine("busy.json");
        (CommandLine receiver, string address) = scene.StartReceiver("busy.json");
        CommandLine migrate = StartEndlessMigration(scene, address);
        source.Kill();
        Assert.Equal(1, receiver.WaitForEnd());
        Assert.Contains("The machine never ran here.", receiver.Error, StringComparison.Ordinal);
        Assert.Equal(2, migrate.WaitForEnd());
    }

    [Theory]
    [InlineData("command")]
    [InlineData("signal")]
    public void A_cancelled_migration_leaves_the_machine_running_at_the_source(string way)
    {
        using var scene = new Scene();
        scene.StartMachine("busy.json");
        (CommandLine receiver, string address) = scene.StartReceiver("busy.json");
        CommandLine migrate = StartEndlessMigration(scene, address);
        if (way == "command")
            scene.Expect(0, "cancel", "busy");
        else
            migrate.Terminate();
        Assert.Equal(1, migrate.WaitForEnd());
        Assert.Equal("cancelled", (string?)JsonNode.Parse(migrate.Output)!["outcome"]);
        Assert.Equal(1, receiver.WaitForEnd());
        AssertRunsAtSource(scene, "busy");
    }

    [Fact]
    public void A_machine_waits_for_the_moment_that_an_operator_chooses()
    {
        using var scene = new Scene();
        scene.StartMachine("busy.json");
        (_, string address) = scene.StartReceiver("busy.json");
        scene.Expect(1, "switchover", "busy");
        CommandLine migrate = StartEndlessMigration(scene, address);
        Assert.Equal("migrating", (string?)scene.Status("busy")["state"]);
        scene.Expect(0, "switchover", "busy");
        Assert.Equal(0, migrate.WaitForEnd());
        Assert.Equal("completed", (string?)JsonNode.Parse(migrate.Output)!["outcome"]);
    }

    [Fact]
    public void A_dry_run_predicts_and_moves_nothing()
    {
        using var scene = new Scene();
        scene.StartMachine("busy.json");
        JsonNode easy = JsonNode.Parse(scene.Expect(
            0, "migrate", "busy", "tcp:127.0.0.1:9", "--dry-run", "--downtime-limit", "60000", "--json").Output)!;
        Assert.True((bool)easy["converges"]!);
        Assert.True((double)easy["downtimeMilliseconds"]! > 0);
        JsonNode hard = JsonNode.Parse(scene.Expect(
            1, "migrate", "busy", "tcp:127.0.0.1:9", "--dry-run", "--downtime-limit", "20", "--bandwidth-limit", "20MiB", "--json").Output)!;
        Assert.False((bool)hard["converges"]!);
        AssertRunsAtSource(scene, "busy");
    }

    [Fact]
    public void Nothing_is_resolved_that_is_not_unknown()
    {
        using var scene = new Scene();
        scene.StartMachine("quiet.json");
        Assert.Contains("nothing to resolve", scene.Expect(1, "resolve", "quiet").Error, StringComparison.Ordinal);
        scene.Expect(64, "resolve", "quiet", "--run-here", "--moved");
    }

    [Fact]
    public void Names_are_taken_once_and_a_stopped_machine_leaves_no_socket()
    {
        using var scene = new Scene();
        CommandLine source = scene.StartMachine("quiet.json");
        Assert.Contains("runs here already", scene.Expect(1, "run", "quiet.json").Error, StringComparison.Ordinal);
        source.Terminate();
        Assert.Equal(0, source.WaitForEnd());
        Assert.Empty(Directory.GetFiles(scene.Folder, "*.sock"));
        Assert.Contains("runs here", scene.Expect(1, "status", "quiet").Error, StringComparison.Ordinal);
    }

    private static CommandLine StartEndlessMigration(Scene scene, string address)
    {
        // Nobody gives the moment of the switchover free.
        CommandLine migrate = scene.Start(
            "migrate", "busy", address, "--pause-before-switchover", "--downtime-limit", "60000", "--json");
        Scene.WaitFor(migrate, () => migrate.Error.Contains("pass  0", StringComparison.Ordinal));
        return migrate;
    }

    private static void AssertRunsAtSource(Scene scene, string machine)
    {
        JsonObject first = scene.Status(machine);
        Assert.Equal("running", (string?)first["state"]);
        Assert.Null(first["failure"]);
        long before = (long)first["devices"]![0]!["reads"]!;
        JsonObject later = scene.Status(machine);
        for (int attempt = 0; attempt < 20 && (long)later["devices"]![0]!["reads"]! <= before; attempt++)
            later = scene.Status(machine);
        Assert.True((long)later["devices"]![0]!["reads"]! > before, "Its device does not read.");
        Assert.Equal(0, (long)later["devices"]![0]!["dataErrors"]!);
    }

    private static void Greet(int port, byte[] greeting)
    {
        using var client = new TcpClient("127.0.0.1", port);
        try
        {
            client.GetStream().Write(greeting);
        }
        catch (IOException)
        {
            // It hung up before we were done: its right.
        }
    }
}
