using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Tidemark.Kernel.Linux;
using Tidemark.Machine;
using Tidemark.Machine.Description;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>
/// The yardstick of a migration: memory of the same kind, touched on both sides, through the same number of TCP
/// streams, in writes of 1 MiB, and nothing checked.
/// </summary>
/// <remarks>
/// <code>
/// bench --starts--> receiver  --"port N"-->
///       --starts--> sender    --"ready"--->  newline: go   --"seconds cpu"-->      receiver --"cpu"-->
/// </code>
/// </remarks>
internal static class LoopbackRun
{
    private const int ChunkPages = 256;

    internal static Transfer Measure(ulong memoryBytes, int channels)
    {
        string size = memoryBytes.ToString(CultureInfo.InvariantCulture);
        string count = channels.ToString(CultureInfo.InvariantCulture);
        string own = Path.Combine(AppContext.BaseDirectory, "Tidemark.Bench.dll");
        using var receiver = ChildProgram.Start(own, ["loopback-receive", size, count]);
        string port = receiver.ReadUntil("port ")["port ".Length..];
        using var sender = ChildProgram.Start(own, ["loopback-send", size, count, port]);
        sender.ReadUntil("ready");
        sender.Say("go");
        string[] sent = sender.ReadUntil("sent ").Split(' ');
        string[] received = receiver.ReadUntil("received ").Split(' ');
        return new Transfer(memoryBytes, Parse(sent[1]), Parse(sent[2]) + Parse(received[1]), "");
    }

    /// <summary>The sending child.</summary>
    internal static int Send(ulong memoryBytes, int channels, int port)
    {
        using GuestMemoryFile file = CreateMemory(memoryBytes);
        ulong[] chunks = FindChunks(file.Memory);
        var sockets = new Socket[channels];
        for (int channel = 0; channel < channels; channel++)
        {
            sockets[channel] = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            sockets[channel].Connect(IPAddress.Loopback, port);
        }

        Console.WriteLine("ready");
        Console.In.ReadLine();
        double cpuBefore = CpuSeconds();
        long start = Stopwatch.GetTimestamp();
        RunOnEach(channels, channel =>
        {
            for (int index = channel; index < chunks.Length; index += channels)
            {
                ReadOnlySpan<byte> rest = file.Memory.PagesSpan(chunks[index], ChunkPages);
                while (!rest.IsEmpty)
                    rest = rest[sockets[channel].Send(rest)..];
            }

            // The time ends when the last byte has arrived, not when it was handed over.
            sockets[channel].Receive(new byte[1]);
        });
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"sent {seconds} {CpuSeconds() - cpuBefore}"));
        Array.ForEach(sockets, socket => socket.Dispose());
        return 0;
    }

    /// <summary>The receiving child.</summary>
    internal static int Receive(ulong memoryBytes, int channels)
    {
        using GuestMemoryFile file = CreateMemory(memoryBytes);
        ulong[] chunks = FindChunks(file.Memory);
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(channels);
        Console.WriteLine($"port {((IPEndPoint)listener.LocalEndPoint!).Port}");
        var sockets = new Socket[channels];
        for (int channel = 0; channel < channels; channel++)
            sockets[channel] = listener.Accept();
        double cpuBefore = CpuSeconds();
        RunOnEach(channels, channel =>
        {
            for (int index = channel; index < chunks.Length; index += channels)
            {
                Span<byte> rest = file.Memory.PagesSpan(chunks[index], ChunkPages);
                while (!rest.IsEmpty)
                {
                    int count = sockets[channel].Receive(rest);
                    if (count == 0)
                        throw new IOException("The sender ended too early.");
                    rest = rest[count..];
                }
            }

            sockets[channel].Send([1]);
        });
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"received {CpuSeconds() - cpuBefore}"));
        Array.ForEach(sockets, socket => socket.Dispose());
        return 0;
    }

    private static GuestMemoryFile CreateMemory(ulong memoryBytes)
    {
        var machine = new MachineDescription { Name = "loopback", MemoryBytes = memoryBytes };
        return GuestMemoryFile.Create(new LinuxKernel(), MemoryLayout.Plan(machine), prefault: true);
    }

    private static ulong[] FindChunks(GuestMemory memory) =>
    [
        .. memory.Slots.SelectMany(slot => Enumerable.Range(0, (int)(slot.PageCount / ChunkPages))
            .Select(chunk => slot.FirstPage + ((ulong)chunk * ChunkPages))),
    ];

    private static void RunOnEach(int channels, Action<int> body)
    {
        Thread[] threads = [.. Enumerable.Range(0, channels).Select(channel => new Thread(() => body(channel)))];
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
    }

    private static double CpuSeconds() => Environment.CpuUsage.TotalTime.TotalSeconds;

    private static double Parse(string text) => double.Parse(text, CultureInfo.InvariantCulture);
}
