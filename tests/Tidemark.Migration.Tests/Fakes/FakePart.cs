using System.Diagnostics;

namespace Tidemark.Migration.Tests;

public enum FakePartState
{
    Running,
    Saving,
    P2P,
    Stopped,
    Ended,
    Loading,
    Loaded,
}

/// <summary>A part with some state to read while it runs and some after, whose bytes the loading side checks.</summary>
public sealed class FakePart(string name, int precopyBytes, int stopBytes, List<string> journal) : IMigratable
{
    private int _read;
    private int _written;

    public string Name => name;

    public FakePartState State { get; set; } = FakePartState.Running;

    /// <summary>The member with this name throws.</summary>
    public string? FailAt { get; set; }

    /// <summary>The member with this name blocks until it is set.</summary>
    public (string Member, ManualResetEventSlim Until)? BlockAt { get; set; }

    public bool RanSinceStop { get; private set; }

    public int BytesLoaded => _written;

    private int Total => precopyBytes + stopBytes;

    private bool CanReadAll => State is FakePartState.Stopped;

    public void BeginSave()
    {
        Enter(nameof(BeginSave));
        _read = 0;
        State = FakePartState.Saving;
    }

    /// <summary>
    /// In the so-manyth estimate after all was read, the part begins anew once: it has some initial bytes again.
    /// </summary>
    public int BeginAnewAt { get; set; }

    /// <summary>Called with each estimate: the first one comes between pass 0 and its harvest.</summary>
    public Action? OnEstimate { get; set; }

    public StateEstimate Estimate()
    {
        OnEstimate?.Invoke();
        ulong initial = (ulong)Math.Max(0, precopyBytes - _read);
        // UAPI: VFIO_PRECOPY_INFO_REINIT. Asked again it has been read, as far as this part can tell.
        if (initial == 0 && BeginAnewAt > 0 && --BeginAnewAt == 0)
            initial = 1;
        return new StateEstimate(initial, 0, (ulong)stopBytes);
    }

    public int ReadState(Span<byte> buffer)
    {
        Enter(nameof(ReadState));
        int end = CanReadAll ? Total : precopyBytes;
        int count = Math.Min(Math.Min(buffer.Length, 1000), end - _read);
        for (int index = 0; index < count; index++)
            buffer[index] = ByteAt(_read + index);
        _read += Math.Max(count, 0);
        return Math.Max(count, 0);
    }

    public void EnterP2P()
    {
        Enter(nameof(EnterP2P));
        State = FakePartState.P2P;
    }

    public void Stop()
    {
        Enter(nameof(Stop));
        State = FakePartState.Stopped;
        RanSinceStop = false;
    }

    public void EndSave()
    {
        Enter(nameof(EndSave));
        State = FakePartState.Ended;
    }

    public void Recover()
    {
        Enter(nameof(Recover));
        State = FakePartState.Running;
        RanSinceStop = true;
    }

    public void BeginLoad()
    {
        Enter(nameof(BeginLoad));
        _written = 0;
        State = FakePartState.Loading;
    }

    public void WriteState(ReadOnlySpan<byte> bytes)
    {
        Enter(nameof(WriteState));
        foreach (byte value in bytes)
        {
            if (value != ByteAt(_written++))
                throw new InvalidDataException("The state is not what was saved.");
        }
    }

    public void EndLoad()
    {
        Enter(nameof(EndLoad));
        if (_written != Total)
            throw new InvalidDataException($"The state has {_written} bytes instead of {Total}.");
        State = FakePartState.Loaded;
    }

    public void PrepareStart()
    {
        // Peers are the host's affair.
    }

    public void Start()
    {
        Enter(nameof(Start));
        Debug.Assert(State == FakePartState.Loaded);
        State = FakePartState.Running;
    }

    private byte ByteAt(int index) => (byte)(index * 7 + name.Length);

    private void Enter(string member)
    {
        if (member is not (nameof(ReadState) or nameof(WriteState)))
        {
            lock (journal)
                journal.Add($"{name}.{member}");
        }

        if (BlockAt is { } block && block.Member == member)
            block.Until.Wait();
        if (FailAt == member)
            throw new InvalidOperationException($"{member} failed as planned.");
    }
}
