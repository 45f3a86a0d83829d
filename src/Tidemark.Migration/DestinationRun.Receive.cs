using System.Buffers.Binary;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

internal sealed partial class DestinationRun
{
    /// <summary>Takes frames until Commit has arrived.</summary>
    private void Receive()
    {
        while (_handover.Stand != DestinationStand.Committed)
        {
            using ControlFrame frame = Link.Receive(_cancel);
            Take(frame);
        }
    }

    private void Take(ControlFrame frame)
    {
        PayloadReader reader = frame.Reader;
        bool loaded = _handover.Stand == DestinationStand.Loaded;
        if (loaded && frame.Type is not (FrameType.HashRequest or FrameType.Commit))
            throw reader.Bad("nothing but HashRequest and Commit is possible after AllSent");
        switch (frame.Type)
        {
            case FrameType.PassBegin:
                BeginPass(reader);
                break;
            case FrameType.SwitchoverRequest:
                // What parts were sent before came on the channels and was acknowledged by those: the parts have it.
                Link.Writer.Send(FrameType.SwitchoverReady, default);
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
        // The channels may be ahead or behind: this frame announces the pass, its pages come on other connections.
        if (index != (ulong)_passes)
            throw reader.Bad($"pass {index} begins where pass {_passes} is due");
        if (_phase != MigrationPhase.Precopy && _phase != MigrationPhase.Switchover)
            Begin(MigrationPhase.Precopy);
        _passes++;
        Decided($"Pass {index} brings {pages} pages.");
    }

    private void EndState(PayloadReader reader)
    {
        (ulong passes, ulong parts) = Messages.ReadPair(reader);
        if (passes != (ulong)_passes)
            throw reader.Bad($"it counts {passes} passes, {_passes} were announced");
        if (parts != (ulong)_parts!.Count)
            throw reader.Bad($"it counts {parts} parts, there are {_parts.Count}");
        AwaitPasses();
        if (_fence!.Current != (uint)_passes)
            throw reader.Bad($"{_passes} passes were announced, and the channels have ended more");
        _parts.AwaitLoaded(_cancel);
        _handover = _handover.Load();
        // Whatever happens from here on: the source may have sent Commit, and may ask.
        _commitIsPossible = true;
        Link.Writer.Send(FrameType.StateLoaded, Messages.WriteTimes([.. _parts.Reports.Select(part => part.LoadTime)]));
    }

    /// <summary>AllSent may be faster than what was sent before it on the channels.</summary>
    private void AwaitPasses()
    {
        long start = _time.GetTimestamp();
        while (!_fence!.AwaitEnd((uint)_passes, ControlLink.WakeInterval))
            Link.CheckWait(start, "a part of the last pass", _cancel);
    }

    private void SendHashes(PayloadReader reader)
    {
        ulong chunkPages = reader.U64();
        reader.End();
        if (chunkPages != FrameLimits.HashesPerFrame || _handover.Stand != DestinationStand.Loaded)
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
        _handover = _handover.Commit(out bool starts);
        if (!starts || passes != (ulong)_passes)
            throw reader.Bad($"Commit after {passes} passes comes before the machine is complete");
    }

    private void Commit()
    {
        Begin(MigrationPhase.Commit);
        long start = _time.GetTimestamp();
        _machine.AcquireDisks();
        TimeSpan disks = Lap("take the disks", ref start);
        _machine.Start();
        TimeSpan started = Lap("start", ref start);
        _handover = _handover.Started();
        // Until the source has said Done it may be in doubt, and then it asks.
        Witness = new HandoverWitness(_acceptor, _token, MachineFate.RunsThere);
        Span<byte> payload = stackalloc byte[24];
        var writer = new PayloadWriter(payload);
        writer.U64((ulong)_passes);
        writer.U64((ulong)disks.Ticks);
        writer.U64((ulong)started.Ticks);
        Link.Writer.Send(FrameType.Committed, payload);
        if (!Link.AwaitLast(FrameType.Done, AnswerLimit, Ending.PeerWordLimit))
            throw new IOException($"The connection with {Link.Peer} ended before it said that it knows.");
        Witness = null;
    }

    private TimeSpan Lap(string name, ref long start)
    {
        TimeSpan duration = _time.GetElapsedTime(start);
        start = _time.GetTimestamp();
        _times.Add(new DowntimePart(name, duration));
        return duration;
    }
}
