using System.Buffers.Binary;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

internal sealed partial class DestinationRun
{
    private bool _loaded;

    /// <summary>Takes frames until Commit has arrived.</summary>
    private void Receive()
    {
        while (!_committed)
        {
            using ControlFrame frame = Link.Receive(_cancel);
            Take(frame);
        }
    }

    private void Take(ControlFrame frame)
    {
        PayloadReader reader = frame.Reader;
        if (_loaded && frame.Type is not (FrameType.HashRequest or FrameType.Commit))
            throw reader.Bad("nothing but HashRequest and Commit is possible after AllSent");
        switch (frame.Type)
        {
            case FrameType.PassBegin:
                BeginPass(reader);
                break;
            case FrameType.PartState:
                TakePartState(reader);
                break;
            case FrameType.PartEnd:
                EndPart(reader);
                break;
            case FrameType.SwitchoverBegin:
                Begin(MigrationPhase.Switchover);
                break;
            case FrameType.AllSent:
                EndState(reader);
                break;
            case FrameType.HashRequest:
                SendHashes(reader);
                break;
            case FrameType.Commit:
                TakeCommit(reader);
                break;
            default:
                throw reader.Bad("it is not due here");
        }
    }

    private void BeginPass(PayloadReader reader)
    {
        (ulong index, ulong pages) = Messages.ReadPair(reader);
        // The channels may be ahead: this frame announces the pass, its pages come on other connections.
        if (index != (ulong)_passes || _receivers.Exists(receiver => receiver.PassesDone < _passes))
            throw reader.Bad($"pass {index} begins where pass {_passes} is due and the one before must be complete");
        if (_passes == 0)
            Begin(MigrationPhase.Precopy);
        _passes++;
        Decided($"Pass {index} brings {pages} pages.");
    }

    private int ReadPart(ref PayloadReader reader, out ulong totalBytes)
    {
        uint index = reader.U32();
        uint sequence = reader.U32();
        totalBytes = reader.U64();
        if (index >= (uint)_parts.Count)
            throw reader.Bad($"there is no part {index}");
        (ulong bytes, uint frames, bool ended) = _parts[(int)index];
        if (ended || sequence != frames)
            throw reader.Bad($"frame {sequence} of part {_machine.Parts[(int)index].Name} comes where {frames} is "
                + $"due or after its end");
        _parts[(int)index] = (bytes, frames + 1, ended);
        return (int)index;
    }

    private void TakePartState(PayloadReader reader)
    {
        int index = ReadPart(ref reader, out ulong totalBytes);
        ReadOnlySpan<byte> bytes = reader.Bytes((uint)reader.Left);
        (ulong before, uint frames, _) = _parts[index];
        if (bytes.Length > FrameLimits.PartStateBytes || totalBytes != before + (ulong)bytes.Length)
            throw reader.Bad($"it counts {totalBytes} bytes of state where {before} and {bytes.Length} more have come");
        _parts[index] = (totalBytes, frames, false);
        // The source sends a frame without bytes ahead, so that this path has been compiled when it counts.
        if (bytes.Length == 0)
            return;
        try
        {
            _machine.Parts[index].WriteState(bytes);
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException(
                $"The part {_machine.Parts[index].Name} did not take its state: {failure.Message}", inner: failure);
        }
    }

    private void EndPart(PayloadReader reader)
    {
        int index = ReadPart(ref reader, out ulong totalBytes);
        reader.End();
        (ulong bytes, uint frames, _) = _parts[index];
        if (totalBytes != bytes)
            throw reader.Bad($"it counts {totalBytes} bytes of state where {bytes} have come");
        _parts[index] = (bytes, frames, true);
        PartStep.Do(_machine.Parts[index], "complete its state", part => part.EndLoad());
    }

    private void EndState(PayloadReader reader)
    {
        (ulong passes, ulong parts) = Messages.ReadPair(reader);
        if (passes != (ulong)_passes || _receivers.Exists(receiver => receiver.PassesDone != _passes))
            throw reader.Bad($"it counts {passes} passes, {_passes} were announced and not all of them are complete");
        if (parts != (ulong)_parts.Count || _parts.Exists(part => !part.Ended))
            throw reader.Bad("the state of a part has no end");
        _loaded = true;
        Link.Writer.Send(FrameType.StateLoaded, default);
    }

    private void SendHashes(PayloadReader reader)
    {
        ulong chunkPages = reader.U64();
        reader.End();
        if (chunkPages != FrameLimits.HashesPerFrame || !_loaded)
            throw reader.Bad($"hashes in chunks of {chunkPages} pages are not possible here");
        Begin(MigrationPhase.Verify);
        long start = _time.GetTimestamp();
        using (var hasher = new MemoryHasher(_machine.Memory, SendChunk, Link.Fail))
            hasher.Join();
        Link.ThrowIfFaulted();
        _verifyTime = _time.GetElapsedTime(start);
    }

    /// <summary>On a hashing thread.</summary>
    private void SendChunk(int index, PageRun chunk, ReadOnlySpan<ulong> hashes)
    {
        Link.ThrowIfFaulted();
        _cancel.ThrowIfCancellationRequested();
        var payload = new byte[16 + hashes.Length * 8];
        Messages.WritePair(payload, chunk.FirstPage, chunk.Count);
        for (int page = 0; page < hashes.Length; page++)
            BinaryPrimitives.WriteUInt64LittleEndian(payload.AsSpan(16 + page * 8), hashes[page]);
        Link.Writer.Send(FrameType.Hashes, payload);
    }

    /// <summary>The point of no return: whatever happens from here on, the source does not run.</summary>
    private void TakeCommit(PayloadReader reader)
    {
        (ulong passes, _) = Messages.ReadPair(reader);
        if (!_loaded || passes != (ulong)_passes)
            throw reader.Bad($"Commit after {passes} passes comes before the machine is complete");
        _committed = true;
    }

    private void Commit()
    {
        Begin(MigrationPhase.Commit);
        _machine.AcquireDisks();
        _machine.Start();
        _running = true;
        Span<byte> payload = stackalloc byte[16];
        Messages.WritePair(payload, (ulong)_passes, 1);
        Link.Writer.Send(FrameType.Committed, payload);
        // The source closes when it has read it.
        Link.AwaitPeerEnd(TimeSpan.FromSeconds(2));
    }
}
