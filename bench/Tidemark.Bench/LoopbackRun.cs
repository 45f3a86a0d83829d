using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Tidemark.Machine;

namespace Tidemark.Bench;

/// <summary>
/// The yardstick of a migration: memory of the same kind, touched or not on the receiving side as there, through the same
/// number of streams, in writes of 1 MiB, and nothing done but what <see cref="LoopbackWork"/> says.
/// </summary>
/// <remarks>
/// <code>
/// bench --starts--> receiver  --"address"->
///       --starts--> sender    --"ready"--->  newline: go   --"seconds cpu"-->      receiver --"cpu"-->
/// </code>
/// </remarks>
internal static class LoopbackRun
{
    /// <param name="touched">Whether the receiver's memory was touched before.</param>
    internal static Transfer Measure(
        ulong memoryBytes, int channels, bool unix = false, bool touched = true, LoopbackWork work = LoopbackWork.Nothing)
    {
        string size = memoryBytes.ToString(CultureInfo.InvariantCulture);
        string count = channels.ToString(CultureInfo.InvariantCulture);
        string done = ((int)work).ToString(CultureInfo.InvariantCulture);
        string own = Path.Combine(AppContext.BaseDirectory, "Tidemark.Bench.dll");
        FreeMemory.Warm(2 * memoryBytes);
        using var receiver = ChildProgram.Start(
            own, ["loopback-receive", size, count, unix ? "unix" : "tcp", touched ? "touched" : "untouched", done]);
        string address = receiver.ReadUntil("address ")["address ".Length..];
        using var sender = ChildProgram.Start(own, ["loopback-send", size, count, address, done]);
        sender.ReadUntil("ready");
        FreeMemory.Warm(2 * memoryBytes);
        sender.Say("go");
        string[] sent = sender.ReadUntil("sent ").Split(' ');
        string[] received = receiver.ReadUntil("received ").Split(' ');
        return new Transfer(memoryBytes, Parse(sent[1]), Parse(sent[2]) + Parse(received[1]), "");
    }

    /// <summary>The sending child.</summary>
    internal static int Send(ulong memoryBytes, int channels, string address, LoopbackWork work)
    {
        using GuestMemoryFile file = ProbeMemory.Create(memoryBytes, touched: true);
        ulong[] chunks = ProbeMemory.FindChunks(file.Memory);
        var lanes = new LoopbackLane[channels];
        for (int channel = 0; channel < channels; channel++)
        {
            EndPoint end = EndOf(address);
            Socket socket = Open(end);
            socket.Connect(end);
            lanes[channel] = LoopbackLane.OfSender(socket, work);
        }

        Console.WriteLine("ready");
        Console.In.ReadLine();
        double cpuBefore = ProbeMemory.CpuSeconds();
        long start = Stopwatch.GetTimestamp();
        ProbeMemory.RunOnEach(channels, channel =>
        {
            for (int index = channel; index < chunks.Length; index += channels)
                lanes[channel].Send(file.Memory.PagesSpan(chunks[index], ProbeMemory.ChunkPages));
            // The time ends when the last byte has arrived, not when it was handed over.
            lanes[channel].TakeEnd();
        });
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"sent {seconds} {ProbeMemory.CpuSeconds() - cpuBefore}"));
        Array.ForEach(lanes, lane => lane.Dispose());
        return 0;
    }

    /// <summary>The receiving child.</summary>
    internal static int Receive(ulong memoryBytes, int channels, bool unix, bool touched, LoopbackWork work)
    {
        using GuestMemoryFile file = ProbeMemory.Create(memoryBytes, touched);
        ulong[] chunks = ProbeMemory.FindChunks(file.Memory);
        string path = Path.Combine(Path.GetTempPath(), $"tidemark-loopback-{Environment.ProcessId}");
        EndPoint end = unix ? new UnixDomainSocketEndPoint(path) : new IPEndPoint(IPAddress.Loopback, 0);
        using Socket listener = Open(end);
        listener.Bind(end);
        listener.Listen(channels);
        Console.WriteLine($"address {(unix ? path : ((IPEndPoint)listener.LocalEndPoint!).Port)}");
        var lanes = new LoopbackLane[channels];
        for (int channel = 0; channel < channels; channel++)
            lanes[channel] = LoopbackLane.OfReceiver(listener.Accept(), work);
        double cpuBefore = ProbeMemory.CpuSeconds();
        ProbeMemory.RunOnEach(channels, channel =>
        {
            for (int index = channel; index < chunks.Length; index += channels)
                lanes[channel].Receive(file.Memory.PagesSpan(chunks[index], ProbeMemory.ChunkPages));
            lanes[channel].TellEnd();
        });
        File.Delete(path);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"received {ProbeMemory.CpuSeconds() - cpuBefore}"));
        Array.ForEach(lanes, lane => lane.Dispose());
        return 0;
    }

    /// <param name="address">A port, or the path of a Unix socket.</param>
    private static EndPoint EndOf(string address) => int.TryParse(address, NumberStyles.None, CultureInfo.InvariantCulture, out int port)
        ? new IPEndPoint(IPAddress.Loopback, port)
        : new UnixDomainSocketEndPoint(address);

    private static Socket Open(EndPoint end) => end is IPEndPoint
        ? new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true }
        : new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);

    private static double Parse(string text) => double.Parse(text, CultureInfo.InvariantCulture);
}
