using System.Buffers.Binary;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>Reads the state of one part and sends it, at the source.</summary>
internal sealed class PartStream(IMigratable part, int index, FrameWriter writer, byte[] buffer)
{
    /// <summary>Length of the buffer all parts of a machine share: one frame.</summary>
    public const int BufferBytes = Messages.PartHeadBytes + FrameLimits.PartStateBytes;

    private uint _sequence;

    public string Name => part.Name;

    public IMigratable Part => part;

    public ulong BytesSent { get; private set; }

    /// <summary>
    /// Sends what is available now, at most <paramref name="maximumBytes"/> and a frame; true when the part had
    /// nothing.
    /// </summary>
    public bool Pump(ulong maximumBytes, CancellationToken cancel)
    {
        ulong sent = 0;
        while (sent < maximumBytes)
        {
            cancel.ThrowIfCancellationRequested();
            int count;
            try
            {
                count = part.ReadState(buffer.AsSpan(Messages.PartHeadBytes, FrameLimits.PartStateBytes));
            }
            catch (Exception failure)
            {
                throw new MigrationFailedException($"The state of {part.Name} could not be read: "
                    + $"{failure.Message}", inner: failure);
            }

            if (count == 0)
                return true;
            Send(count);
            sent += (ulong)count;
        }

        return false;
    }

    /// <summary>Sends a frame without bytes: both sides have then run the code that the downtime will need.</summary>
    public void WarmUp() => Send(0);

    public void SendEnd()
    {
        Span<byte> payload = stackalloc byte[Messages.PartHeadBytes];
        WriteHead(payload);
        BinaryPrimitives.WriteUInt64LittleEndian(payload[8..], BytesSent);
        writer.Send(FrameType.PartEnd, payload);
    }

    private void Send(int count)
    {
        BytesSent += (ulong)count;
        WriteHead(buffer);
        BinaryPrimitives.WriteUInt64LittleEndian(buffer.AsSpan(8), BytesSent);
        writer.Send(FrameType.PartState, buffer.AsSpan(0, Messages.PartHeadBytes + count));
    }

    private void WriteHead(Span<byte> into)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(into, (uint)index);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], unchecked(_sequence++));
    }
}
