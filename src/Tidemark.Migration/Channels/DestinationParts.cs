using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// The parts of a machine that takes state. Each part's state comes on one channel, in order; complete parts are loaded
/// side by side, each on a thread of its own, which waits from the beginning: to make one costs a busy host up to a
/// millisecond of the pause.
/// </summary>
/// <remarks>
/// <code>
/// part: BeginLoad --PartState k...--> PartEnd --own thread: EndLoad--> Loaded | failure -> link.Fail
///          '--------Dispose before PartEnd: the thread ends--------'
/// </code>
/// </remarks>
internal sealed class DestinationParts : IDisposable
{
    private readonly IReadOnlyList<IMigratable> _machineParts;
    private readonly ControlLink _link;
    private readonly TimeProvider _time;
    private readonly Part[] _parts;
    private readonly object _gate = new();
    private int _loaded;

    /// <summary>All parts begin to load.</summary>
    /// <exception cref="MigrationFailedException">One refused.</exception>
    public DestinationParts(IReadOnlyList<IMigratable> parts, ControlLink link, TimeProvider time)
    {
        _machineParts = parts;
        _link = link;
        _time = time;
        foreach (IMigratable part in parts)
            PartStep.Do(part, "prepare to take state", migratable => migratable.BeginLoad());
        _parts = [.. parts.Select(_ => new Part())];
        try
        {
            for (int index = 0; index < _parts.Length; index++)
                _parts[index].Loader = StartLoader(index);
        }
        catch
        {
            // A host that has no room for one more thread: those that wait already end.
            Dispose();
            throw;
        }
    }

    public int Count => _parts.Length;

    public IReadOnlyList<PartReport> Reports =>
        [.. _parts.Select((part, index) => new PartReport(_machineParts[index].Name, part.Bytes) { LoadTime = part.LoadTime })];

    /// <summary>On a channel's thread.</summary>
    public void TakeState(PayloadReader reader)
    {
        int index = ReadIndex(ref reader);
        Part part = _parts[index];
        // A peer that spreads a part over channels is refused by the sequence; the lock keeps it from racing.
        using Lock.Scope turn = part.Gate.EnterScope();
        ulong totalBytes = ReadHead(ref reader, index);
        ReadOnlySpan<byte> bytes = reader.Bytes((uint)reader.Left);
        if (bytes.Length > FrameLimits.PartStateBytes || totalBytes != part.Bytes + (ulong)bytes.Length)
            throw reader.Bad($"it counts {totalBytes} bytes of state where {part.Bytes} and {bytes.Length} more have come");
        part.Bytes = totalBytes;
        // The source sends a frame without bytes ahead, so that this path has been compiled when it counts.
        if (bytes.Length == 0)
            return;
        try
        {
            _machineParts[index].WriteState(bytes);
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException(
                $"The part {_machineParts[index].Name} did not take its state: {failure.Message}", inner: failure);
        }
    }

    /// <summary>On a channel's thread; the part is loaded on one of its own, so that the channel goes on.</summary>
    public void TakeEnd(PayloadReader reader)
    {
        int index = ReadIndex(ref reader);
        Part part = _parts[index];
        using Lock.Scope turn = part.Gate.EnterScope();
        ulong totalBytes = ReadHead(ref reader, index);
        reader.End();
        if (totalBytes != part.Bytes)
            throw reader.Bad($"it counts {totalBytes} bytes of state where {part.Bytes} have come");
        part.Ended = true;
        part.MayLoad.Set();
    }

    /// <summary>Waits until all parts are loaded.</summary>
    /// <exception cref="LinkFailedException">One could not be, or the source is gone.</exception>
    /// <exception cref="IOException">The source lives, and a part's end does not come.</exception>
    public void AwaitLoaded(CancellationToken cancel)
    {
        long start = _time.GetTimestamp();
        lock (_gate)
        {
            while (_loaded < _parts.Length)
            {
                // A device that has all its state loads as long as it takes.
                int index = Array.FindIndex(_parts, part => !part.MayLoad.IsSet);
                _link.CheckWait(start, index < 0 ? null : $"the end of the state of {_machineParts[index].Name}", cancel);
                Monitor.Wait(_gate, ControlLink.WakeInterval);
            }
        }
    }

    /// <summary>Joins the loading threads. The channels have ended before.</summary>
    public void Dispose()
    {
        foreach (Part part in _parts)
        {
            part.MayLoad.Set();
            part.Loader?.Join();
            part.MayLoad.Dispose();
        }
    }

    private Thread StartLoader(int index)
    {
        var loader = new Thread(() => Load(index)) { IsBackground = true, Name = $"tidemark load {_machineParts[index].Name}" };
        loader.Start();
        return loader;
    }

    private int ReadIndex(ref PayloadReader reader)
    {
        uint index = reader.U32();
        return index < (uint)_parts.Length ? (int)index : throw reader.Bad($"there is no part {index}");
    }

    private ulong ReadHead(ref PayloadReader reader, int index)
    {
        uint sequence = reader.U32();
        ulong totalBytes = reader.U64();
        Part part = _parts[index];
        if (part.Ended || sequence != part.Frames)
        {
            throw reader.Bad($"frame {sequence} of part {_machineParts[index].Name} comes where {part.Frames} is due or "
                + "after its end");
        }

        part.Frames++;
        return totalBytes;
    }

    private void Load(int index)
    {
        _parts[index].MayLoad.Wait();
        // Set without an end: nothing comes any more.
        if (!_parts[index].Ended)
            return;
        long start = _time.GetTimestamp();
        try
        {
            PartStep.Do(_machineParts[index], "complete its state", part => part.EndLoad());
        }
        catch (Exception failure)
        {
            // The machine is incomplete and will not run here.
            _link.Fail(failure);
            return;
        }

        _parts[index].LoadTime = _time.GetElapsedTime(start);
        lock (_gate)
        {
            _loaded++;
            Monitor.PulseAll(_gate);
        }
    }

    private sealed class Part
    {
        public Lock Gate { get; } = new();

        public ulong Bytes { get; set; }

        public uint Frames { get; set; }

        /// <summary>Complete; written before <see cref="MayLoad"/> is set.</summary>
        public bool Ended { get; set; }

        public ManualResetEventSlim MayLoad { get; } = new();

        public TimeSpan LoadTime { get; set; }

        public Thread? Loader { get; set; }
    }
}
