using System.Buffers.Binary;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// Reads the state of one part and sends it on the channel that is the part's for the whole migration, so that it arrives
/// in order. Members: any thread; parts of one channel take turns.
/// </summary>
internal sealed class PartStream(IMigratable part, int index, SourceChannel channel)
{
    /// <summary>
    /// What is read at once: it is read, checked and sent while it lies in a processor's own cache. LIMIT: a frame.
    /// </summary>
    private const int ReadBytes = 256 << 10;

    /// <summary>Length of the buffer that all parts of a channel share.</summary>
    public const int BufferBytes = Messages.PartHeadBytes + ReadBytes;

    private uint _sequence;
    private ulong _bytesSent;

    public string Name => part.Name;

    public SourceChannel Channel => channel;

    public ulong BytesSent => Volatile.Read(ref _bytesSent);

    /// <summary>From the first byte after the stop to the last, when it has been sent.</summary>
    public TimeSpan SaveTime { get; private set; }

    /// <summary>One step of the part, with nobody reading its state meanwhile.</summary>
    public void Do(string step, Action<IMigratable> action)
    {
        lock (channel.PartGate)
            PartStep.Do(part, step, action);
    }

    public StateEstimate Estimate()
    {
        StateEstimate estimate = default;
        Do("say how much state it has", migratable => estimate = migratable.Estimate());
        return estimate;
    }

    /// <summary>
    /// Sends what is available now, at most <paramref name="maximumBytes"/> and a frame; true when the part had
    /// nothing.
    /// </summary>
    public bool Pump(ulong maximumBytes, CancellationToken cancel)
    {
        lock (channel.PartGate)
        {
            byte[] buffer = channel.PartBuffer;
            ulong sent = 0;
            while (sent < maximumBytes)
            {
                cancel.ThrowIfCancellationRequested();
                int count;
                try
                {
                    count = part.ReadState(buffer.AsSpan(Messages.PartHeadBytes, ReadBytes));
                }
                catch (Exception failure)
                {
                    throw new MigrationFailedException($"The state of {part.Name} could not be read: "
                        + $"{failure.Message}", inner: failure);
                }

                if (count == 0)
                    return true;
                Send(buffer, count);
                sent += (ulong)count;
            }

            return false;
        }
    }

    /// <summary>Sends a frame without bytes: both sides have then run the code that the downtime will need.</summary>
    public void WarmUp()
    {
        lock (channel.PartGate)
            Send(channel.PartBuffer, 0);
    }

    /// <summary>The part stands still: all that is left, and its end.</summary>
    public void Finish(TimeProvider time, CancellationToken cancel)
    {
        long start = time.GetTimestamp();
        Pump(ulong.MaxValue, cancel);
        lock (channel.PartGate)
        {
            Span<byte> payload = stackalloc byte[Messages.PartHeadBytes];
            WriteHead(payload);
            channel.Writer.Send(FrameType.PartEnd, payload);
        }

        SaveTime = time.GetElapsedTime(start);
    }

    private void Send(byte[] buffer, int count)
    {
        Volatile.Write(ref _bytesSent, _bytesSent + (ulong)count);
        WriteHead(buffer);
        channel.Writer.Send(FrameType.PartState, buffer.AsSpan(0, Messages.PartHeadBytes + count));
    }

    private void WriteHead(Span<byte> into)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(into, (uint)index);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], unchecked(_sequence++));
        BinaryPrimitives.WriteUInt64LittleEndian(into[8..], _bytesSent);
    }
}
