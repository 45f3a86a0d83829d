using Tidemark.Migration.Snapshot;

namespace Tidemark.Migration.Tests;

/// <summary>A snapshot file in memory. The call with a chosen number fails, as a disk does.</summary>
internal sealed class FakeSnapshotFile : INewSnapshotFile
{
    private readonly Lock _gate = new();
    private byte[] _bytes = [];
    private int _calls;

    public FakeSnapshotFile()
    {
    }

    /// <summary>A file with this content.</summary>
    public FakeSnapshotFile(byte[] bytes) => _bytes = bytes;

    public string Path => "machine.tms";

    public PageLane Lane { get; } = new(false, "It is in memory.");

    /// <summary>Fails the call with this number, counted from 1, that changes the file.</summary>
    public int FailAt { get; set; }

    public string Failure { get; set; } = "Writing machine.tms failed: ENOSPC. The disk is full.";

    /// <summary>Before each call that changes the file; gets its number.</summary>
    public Action<int>? OnCall { get; set; }

    /// <summary>The file as seen through its first so many bytes.</summary>
    public ulong? VisibleLength { get; set; }

    public int Calls => Volatile.Read(ref _calls);

    public bool Published { get; private set; }

    public bool Disposed { get; private set; }

    public List<(ulong Offset, int Length)> PageWrites { get; } = [];

    public byte[] Bytes => _bytes;

    public ulong ReadLength() => VisibleLength ?? (ulong)_bytes.Length;

    public void Read(Span<byte> buffer, ulong offset)
    {
        if (offset + (ulong)buffer.Length > ReadLength())
            throw new IOException("machine.tms ends too early.");
        _bytes.AsSpan((int)offset, buffer.Length).CopyTo(buffer);
    }

    public void ReadPages(Span<byte> pages, ulong offset) => Read(pages, offset);

    public void SetLength(ulong byteLength)
    {
        Enter();
        lock (_gate)
            Array.Resize(ref _bytes, (int)byteLength);
    }

    public void Write(ReadOnlySpan<byte> bytes, ulong offset)
    {
        Enter();
        lock (_gate)
        {
            if (offset + (ulong)bytes.Length > (ulong)_bytes.Length)
                Array.Resize(ref _bytes, (int)offset + bytes.Length);
            bytes.CopyTo(_bytes.AsSpan((int)offset));
        }
    }

    public void WritePages(ReadOnlySpan<byte> pages, ulong offset)
    {
        Enter();
        lock (_gate)
        {
            Assert.Equal(0UL, offset % 4096);
            PageWrites.Add((offset, pages.Length));
            pages.CopyTo(_bytes.AsSpan((int)offset));
        }
    }

    public void Sync() => Enter();

    public void Publish()
    {
        Enter();
        Published = true;
    }

    public void Dispose() => Disposed = true;

    private void Enter()
    {
        int call = Interlocked.Increment(ref _calls);
        OnCall?.Invoke(call);
        if (call == FailAt)
            throw new IOException(Failure);
    }
}

/// <summary>A machine that can be saved and one that can be filled.</summary>
internal sealed class SnapshotWorld : IDisposable, ISnapshotObserver
{
    public SnapshotWorld()
    {
        Source.Fill(0, 24, seed: 1);
        Source.Fill(100, 24, seed: 1);
        Source.Fill(150, 10, seed: 1);
    }

    public FakeSourceMachine Source { get; } = new(World.Slots);

    public FakeDestinationMachine Destination { get; } = new(World.Slots);

    public FakeSnapshotFile File { get; set; } = new();

    public SnapshotSaveOptions Options { get; set; } = new() { Threads = 1 };

    public SnapshotRestoreOptions RestoreOptions { get; set; } = new() { Threads = 1 };

    public CancellationTokenSource Cancel { get; } = new();

    public List<SnapshotEvent> Events { get; } = [];

    public Action<SnapshotEvent>? OnEvent { get; set; }

    public SnapshotOutcome Save() =>
        new SnapshotSave(Source, () => File, Options, this, new StillClock()).Run(Cancel.Token);

    public SnapshotOutcome Restore() =>
        new SnapshotRestore(Destination, File, RestoreOptions, this, TimeProvider.System).Run(Cancel.Token);

    public static void Verify(ISnapshotFile file) =>
        SnapshotContents.Open(file).Verify(1, new Silent(), CancellationToken.None);

    void ISnapshotObserver.OnEvent(SnapshotEvent snapshotEvent)
    {
        Events.Add(snapshotEvent);
        OnEvent?.Invoke(snapshotEvent);
    }

    public bool MemoryEqual() => World.Slots.All(slot =>
        Source.Memory.PagesSpan(slot.FirstPage, (int)slot.PageCount)
            .SequenceEqual(Destination.Memory.PagesSpan(slot.FirstPage, (int)slot.PageCount)));

    /// <summary>What must hold after a save that failed or was cancelled.</summary>
    public void CheckRunsOn(SnapshotOutcome outcome)
    {
        Assert.True(Source.Runs, outcome.Cause);
        Assert.True(outcome.MachineRuns, outcome.Cause);
        Assert.False(Source.DirtyTracker.IsStarted);
        Assert.False(Source.DisksReleased);
        Assert.False(outcome.FileIsComplete);
        Assert.False(File.Published);
        Assert.Contains("The machine runs on; no file is left.", outcome.Cause, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', outcome.Cause!);
    }

    public void Dispose()
    {
        Source.Dispose();
        Destination.Dispose();
        Cancel.Dispose();
    }

    private sealed class Silent : ISnapshotObserver
    {
        public void OnEvent(SnapshotEvent snapshotEvent)
        {
            // Exceptions say all that is looked at.
        }
    }

    /// <summary>The calendar stands still, so that a file has the same bytes each time.</summary>
    private sealed class StillClock : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => DateTimeOffset.FromUnixTimeMilliseconds(1_700_000_000_000);
    }
}
