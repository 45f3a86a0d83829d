using System.Net.Sockets;
using System.Text;

namespace Tidemark.Cli.Tests;

/// <summary>What comes in through a machine's control socket must not end or hold up the machine.</summary>
public sealed class ControlSocketTests
{
    [Theory]
    [InlineData("""{"op":"migrate","to":"tcp:127.0.0.1:1","channels":1000}""")]
    [InlineData("""{"op":"migrate","to":"tcp:127.0.0.1:1","channels":99999999999}""")]
    [InlineData("""{"op":"migrate","to":5}""")]
    [InlineData("""{"op":"status","op":"status"}""")]
    [InlineData("""{"op":"no such thing"}""")]
    public void A_request_that_makes_no_sense_is_refused_in_words_and_the_machine_goes_on(string request)
    {
        using var scene = new Scene();
        CommandLine machine = scene.StartMachine("quiet.json");
        using Socket client = Connect(scene);
        client.ReceiveTimeout = 10_000;
        client.Send(Encoding.UTF8.GetBytes(request + "\n"));
        var answer = new byte[4096];
        Assert.Contains("\"error\"", Encoding.UTF8.GetString(answer, 0, client.Receive(answer)), StringComparison.Ordinal);
        Assert.Equal("running", (string?)scene.Status("quiet")["state"]);
        scene.Expect(0, "stop", "quiet");
        Assert.Equal(0, machine.WaitForEnd());
    }

    [Fact]
    public void Clients_that_say_nothing_do_not_keep_a_machine_from_ending()
    {
        using var scene = new Scene();
        CommandLine machine = scene.StartMachine("quiet.json");
        var clients = new List<Socket>();
        try
        {
            clients.Add(Connect(scene));
            clients[0].Send("{\"op\":\"stop\"}"u8);
            // More than there are places, so that the newest waits for one.
            for (int number = 0; number < 18; number++)
                clients.Add(Connect(scene));
            clients[0].Send("\n"u8);
            Assert.Equal(0, machine.WaitForEnd());
        }
        finally
        {
            clients.ForEach(client => client.Dispose());
        }
    }

    [Fact]
    public void A_receiver_that_is_stopped_ends_with_0()
    {
        using var scene = new Scene();
        (CommandLine receiver, _) = scene.StartReceiver("quiet.json");
        scene.Expect(0, "stop", "there");
        Assert.Equal(0, receiver.WaitForEnd());
        Assert.DoesNotContain("Cancelled", receiver.Error, StringComparison.Ordinal);
    }

    private static Socket Connect(Scene scene)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(Path.Combine(scene.Folder, "quiet.sock")));
        return socket;
    }
}
