using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// One channel of the source: a connection with a thread that sends what it is given in order, and one that takes
/// acknowledgements.
/// </summary>
/// <remarks>
/// <code>
/// sender        Waiting --Post--> parts to their end | windows of the pass, a Mark after each batch, PassEnd --> Waiting
/// acknowledger  Ack k --> the pages of batch k leave their lease; pages that changed on their way are pending again
/// either --failure--> link.Fail, thread ends          --Dispose--> threads end
/// </code>
/// The sender does not wait for acknowledgements: a pass follows the one before without a gap. Order is kept by the
/// destination, which takes no page of a pass before all channels have ended the one before.
/// </remarks>
internal sealed class SourceChannel : IDisposable
{
    // LIMIT: a batch of nearly empty windows is answered as well.
    private const int BatchWindows = 256;

    private readonly object _gate = new();
    private readonly IConnection _connection;
    private readonly ControlLink _link;
    private readonly Action<PageRun> _sendAgain;
    private readonly SourceChannelOptions _options;
    private readonly int _number;
    private readonly PageFramer _framer;
    private readonly FrameReader _reader;
    private readonly Queue<Job> _jobs = new();
    private readonly Queue<Batch> _unacknowledged = new();
    private readonly Stack<Batch> _spare = new();
    private readonly Thread _sender;
    private readonly Thread _acknowledger;
    private Batch? _open;
    private bool _stopping;

    /// <param name="number">1 for the first channel.</param>
    /// <param name="sendAgain">Told of pages that did not arrive as they were hashed.</param>
    public SourceChannel(
        IConnection connection, int number, GuestMemory memory, SourceChannelOptions options, ControlLink link,
        Action<PageRun> sendAgain, TimeProvider time)
    {
        _connection = connection;
        _number = number;
        _options = options;
        _link = link;
        _sendAgain = sendAgain;
        connection.IdleTimeout = options.IdleTimeout;
        Writer = new FrameWriter(connection, (uint)number);
        _framer = new PageFramer(Writer, memory, options);
        // Acknowledgements come when there are any; whether the peer lives is seen on the control connection.
        _reader = new FrameReader(connection, (uint)number, Timeout.InfiniteTimeSpan, time);
        _sender = new Thread(SendLoop) { IsBackground = true, Name = $"tidemark pages {number}" };
        _acknowledger = new Thread(AcknowledgeLoop) { IsBackground = true, Name = $"tidemark acknowledgements {number}" };
        _sender.Start();
        _acknowledger.Start();
    }

    public FrameWriter Writer { get; }

    public int Number => _number;

    public ulong BytesSent => Writer.BytesSent;

    /// <summary>Held while a part of this channel is read or takes a step.</summary>
    public Lock PartGate { get; } = new();

    /// <summary>For whoever holds <see cref="PartGate"/>.</summary>
    public byte[] PartBuffer { get; } = GC.AllocateUninitializedArray<byte>(PartStream.BufferBytes);

    /// <summary>This channel's share of a pass, after what was posted before.</summary>
    public void Post(PassWork work) => Post(new Job(work, null, null));

    /// <summary>The state of parts that stand still, to its end; the event is signalled when it is out.</summary>
    public void Post(IReadOnlyList<PartStream> parts, Countdown done) => Post(new Job(null, parts, done));

    public void Abort() => _connection.Abort();

    /// <summary>Breaks the connection and joins the threads.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _stopping = true;
            Monitor.PulseAll(_gate);
        }

        _connection.Abort();
        _sender.Join();
        _acknowledger.Join();
        _framer.Dispose();
        _connection.Dispose();
    }

    private void Post(Job job)
    {
        lock (_gate)
        {
            _jobs.Enqueue(job);
            Monitor.PulseAll(_gate);
        }
    }

    private void SendLoop()
    {
        try
        {
            while (TakeJob(out Job job))
            {
                if (job.Work is { } work)
                    SendShare(work);
                else
                    FinishParts(job.Parts!, job.Done!);
            }
        }
        catch (Exception failure)
        {
            // The share is incomplete and stays unacknowledged, so the lease of this pass gives it back.
            _link.Fail(new ChannelFailedException(_number, failure));
        }
    }

    private bool TakeJob(out Job job)
    {
        lock (_gate)
        {
            while (_jobs.Count == 0 && !_stopping)
                Monitor.Wait(_gate);
            return _jobs.TryDequeue(out job) && !_stopping;
        }
    }

    private void FinishParts(IReadOnlyList<PartStream> parts, Countdown done)
    {
        foreach (PartStream part in parts)
            part.Finish(_options.Time, _options.Cancel);
        done.Signal();
    }

    private void SendShare(PassWork work)
    {
        _framer.BeginPass(work);
        while (work.TryTake(out ulong position, out ulong end))
        {
            Batch batch = _open ??= TakeBatch(work);
            batch.Windows.Add(new PageRun(position, end - position));
            while (work.TryNextRun(position, end, out PageRun run))
            {
                _framer.Add(run);
                position = run.FirstPage + run.Count;
            }

            if (_framer.BytesSinceMark >= _options.BatchBytes || batch.Windows.Count >= BatchWindows)
                Mark(work, endsPass: false);
        }

        _open ??= TakeBatch(work);
        Mark(work, endsPass: true);
        work.ChannelSent();
    }

    /// <summary>Everything so far goes out, and the peer says when it has it.</summary>
    private void Mark(PassWork work, bool endsPass)
    {
        Batch batch = _open!;
        _open = null;
        _framer.Flush();
        batch.EndsPass = endsPass;
        batch.Bytes = _framer.TakeBytesSinceMark();
        // ORDER: queued before the peer can have seen the frame that it answers.
        lock (_unacknowledged)
            _unacknowledged.Enqueue(batch);
        if (endsPass)
            _framer.SendPassEnd();
        else
            Writer.Send(FrameType.Mark, default);
        work.Count(0, 0, (ulong)FrameHeader.Size);
    }

    private Batch TakeBatch(PassWork work)
    {
        Batch? batch;
        lock (_unacknowledged)
        {
            if (!_spare.TryPop(out batch))
                batch = new Batch();
        }

        batch.Work = work;
        return batch;
    }

    private void AcknowledgeLoop()
    {
        try
        {
            while (_reader.TryReadHeader(out FrameHeader header))
                TakeFrame(header);
            throw new IOException($"The peer {_connection.Peer} closed channel {_number} before it was done.");
        }
        catch (Exception failure)
        {
            // What is not acknowledged stays in its lease.
            _link.Fail(new ChannelFailedException(_number, failure));
        }
    }

    private void TakeFrame(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        if (header.Type is not (FrameType.Ack or FrameType.Ping))
            throw new MigrationStreamException(header.Type.Name(), offset, "Ack is due here");
        byte[] payload = System.Buffers.ArrayPool<byte>.Shared.Rent(header.PayloadLength);
        try
        {
            _reader.ReadPayload(header, payload.AsSpan(0, header.PayloadLength));
            if (header.Type == FrameType.Ack)
                Acknowledge(new PayloadReader(payload.AsSpan(0, header.PayloadLength), nameof(FrameType.Ack), offset));
        }
        finally
        {
            System.Buffers.ArrayPool<byte>.Shared.Return(payload);
        }
    }

    private void Acknowledge(PayloadReader reader)
    {
        uint pass = reader.U32();
        uint count = reader.U32();
        Batch? batch;
        lock (_unacknowledged)
            _unacknowledged.TryDequeue(out batch);
        if (batch is null || batch.Work!.Index != pass)
            throw reader.Bad($"it acknowledges something of pass {pass} that was not sent");
        PassWork work = batch.Work;
        ulong repeated = 0;
        for (uint index = 0; index < count; index++)
        {
            var run = new PageRun(reader.U64(), reader.U64());
            if (!Contains(batch.Windows, run))
                throw reader.Bad($"it asks for {run.Count} pages at page 0x{run.FirstPage:x} again, which it was not sent");
            repeated += run.Count;
            // ORDER: pending before it leaves the lease, so that it is in one of them at each instant.
            _sendAgain(run);
        }

        reader.End();
        if (repeated > 0 && work.IsFinal)
        {
            throw reader.Bad(
                $"{repeated} pages arrived other than they were sent although the machine stands still, so they were damaged "
                    + "on their way");
        }

        work.CountRepeated(repeated);
        work.Acknowledge(batch.Windows, batch.Bytes);
        bool endsPass = batch.EndsPass;
        batch.Windows.Clear();
        lock (_unacknowledged)
            _spare.Push(batch);
        if (endsPass)
            work.ChannelAcknowledged();
    }

    private static bool Contains(List<PageRun> windows, PageRun run)
    {
        // A run never crosses a window that was not taken: windows of a batch ascend and may adjoin.
        ulong first = run.FirstPage;
        ulong left = run.Count;
        foreach (PageRun window in windows)
        {
            if (first < window.FirstPage || first >= window.FirstPage + window.Count)
                continue;
            ulong here = Math.Min(left, window.FirstPage + window.Count - first);
            first += here;
            left -= here;
            if (left == 0)
                return run.Count > 0;
        }

        return false;
    }

    private readonly record struct Job(PassWork? Work, IReadOnlyList<PartStream>? Parts, Countdown? Done);

    /// <summary>Windows whose pages are all out, and what the peer answers with one Ack.</summary>
    private sealed class Batch
    {
        public List<PageRun> Windows { get; } = [];

        public PassWork? Work { get; set; }

        public ulong Bytes { get; set; }

        public bool EndsPass { get; set; }
    }
}

/// <summary>What the channels of one source have in common.</summary>
/// <param name="Sent">What the destination has, when comparing pays; else null.</param>
internal sealed record SourceChannelOptions(
    SentPages? Sent, TimeSpan IdleTimeout, ulong BatchBytes, TimeProvider Time, CancellationToken Cancel)
{
    /// <summary>Makes a channel's compressor; null: pages go as they are.</summary>
    public Func<PageCompressor>? Compression { get; init; }
}
