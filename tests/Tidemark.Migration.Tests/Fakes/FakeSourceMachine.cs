using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>A running machine: two slots of memory, two parts, a thread that writes memory when asked to.</summary>
public sealed class FakeSourceMachine : ISourceMachine, IDisposable
{
    private readonly FakeMemory _memory;
    private readonly Thread _writer;
    private readonly object _gate = new();
    private bool _ending;
    private bool _running = true;
    private bool _inWrite;
    private bool _ranSinceStop;
    private uint _counter;

    public FakeSourceMachine(params (ulong FirstPage, ulong PageCount)[] slots)
    {
        _memory = new FakeMemory(slots);
        Dirty = new FakeDirtySource(Memory.SpanPages);
        DirtyTracker = new DirtyTracker(Memory.SpanPages, [Dirty]);
        Memory.WriteBarrier = Dirty;
        Device = new FakePart("nvme0", 5000, 3000, Journal);
        Processors = new FakePart("workload", 0, 500, Journal);
        Parts = [Device, Processors];
        _writer = new Thread(Write) { IsBackground = true, Name = "fake workload" };
    }

    public List<string> Journal { get; } = [];

    public GuestMemory Memory => _memory.Guest;

    public DirtyTracker DirtyTracker { get; }

    public FakeDirtySource Dirty { get; }

    public FakePart Device { get; }

    public FakePart Processors { get; }

    public IReadOnlyList<IMigratable> Parts { get; }

    public ReadOnlyMemory<byte> Description { get; set; } = "{\"fake\":1}"u8.ToArray();

    public bool ReportsUnchangedPages { get; set; }

    public void StartTracking() => DirtyTracker.Start();

    public void StopTracking(bool staysHere) => DirtyTracker.Stop();

    public string? FailAt { get; set; }

    /// <summary>The pages that the workload writes in turn, one a millisecond; none: it writes nothing.</summary>
    public ulong[] HotPages { get; set; } = [];

    /// <summary>What the workload writes just before it stands still.</summary>
    public Action? OnLastWrite { get; set; }

    public bool WorkloadRuns
    {
        get { lock (_gate) return _running; }
    }

    public bool Runs => WorkloadRuns && Device.State is FakePartState.Running or FakePartState.Saving;

    public bool DisksReleased { get; private set; }

    public void StartWriting() => _writer.Start();

    /// <summary>Fills pages with bytes that differ from page to page and from seed to seed.</summary>
    public void Fill(ulong firstPage, ulong count, int seed)
    {
        var bytes = new byte[GuestPage.Size];
        for (ulong page = firstPage; page < firstPage + count; page++)
        {
            new Random(HashCode.Combine(seed, page)).NextBytes(bytes);
            Memory.Write(new GuestPhysicalAddress(page << GuestPage.Shift), bytes);
        }
    }

    public bool CanThrottle { get; set; }

    public List<int> Throttles { get; } = [];

    public void Throttle(int percent) => Throttles.Add(percent);

    /// <summary>Pages that the machine says it never touched.</summary>
    public List<PageRun> Holes { get; } = [];

    /// <summary>Called right before the pages are looked at.</summary>
    public Action? OnFindTouched { get; set; }

    public PageBitmap FindTouchedPages()
    {
        OnFindTouched?.Invoke();
        PageBitmap pages = Memory.AllPages();
        foreach (PageRun hole in Holes)
            pages.ClearRange(hole.FirstPage, hole.Count);
        return pages;
    }

    public void StopWorkload()
    {
        Note(nameof(StopWorkload));
        OnLastWrite?.Invoke();
        lock (_gate)
        {
            _running = false;
            _ranSinceStop = false;
            while (_inWrite)
                Monitor.Wait(_gate);
        }
    }

    public void ResumeWorkload()
    {
        Note(nameof(ResumeWorkload));
        lock (_gate)
        {
            _running = true;
            _ranSinceStop = true;
            Monitor.PulseAll(_gate);
        }
    }

    public IReadOnlyList<string> FindRunners()
    {
        var runners = new List<string>();
        lock (_gate)
        {
            if (_running || _ranSinceStop)
                runners.Add("the workload");
        }

        foreach (FakePart part in Parts.Cast<FakePart>())
        {
            if (part.State != FakePartState.Stopped || part.RanSinceStop)
                runners.Add(part.Name);
        }

        return runners;
    }

    public void FlushDisks() => Note(nameof(FlushDisks));

    public void ReleaseDisks()
    {
        Note(nameof(ReleaseDisks));
        DisksReleased = true;
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _ending = true;
            Monitor.PulseAll(_gate);
        }

        if (_writer.ThreadState != ThreadState.Unstarted && (_writer.ThreadState & ThreadState.Unstarted) == 0)
            _writer.Join();
        _memory.Dispose();
    }

    private void Note(string member)
    {
        lock (Journal)
            Journal.Add(member);
        if (FailAt == member)
            throw new InvalidOperationException($"{member} failed as planned.");
    }

    private void Write()
    {
        Span<byte> value = stackalloc byte[8];
        while (true)
        {
            lock (_gate)
            {
                while (!_running && !_ending)
                    Monitor.Wait(_gate);
                if (_ending)
                    return;
                _inWrite = true;
            }

            // One page after the other: at any time some were written long ago and some just now.
            if (HotPages.Length > 0)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(value, ++_counter);
                ulong page = HotPages[_counter % (uint)HotPages.Length];
                Memory.Write(new GuestPhysicalAddress((page << GuestPage.Shift) + 64), value);
            }

            lock (_gate)
            {
                _inWrite = false;
                Monitor.PulseAll(_gate);
            }

            Thread.Sleep(1);
        }
    }
}

/// <summary>A machine that waits to be filled.</summary>
public sealed class FakeDestinationMachine : IDestinationMachine, IDisposable
{
    private readonly FakeMemory _memory;
    private readonly FakePart _device;
    private readonly FakePart _processors;

    public FakeDestinationMachine(params (ulong FirstPage, ulong PageCount)[] slots)
    {
        _memory = new FakeMemory(slots);
        _device = new FakePart("nvme0", 5000, 3000, Journal) { State = FakePartState.Stopped };
        _processors = new FakePart("workload", 0, 500, Journal) { State = FakePartState.Stopped };
        Parts = [_device, _processors];
    }

    public List<string> Journal { get; } = [];

    public GuestMemory Memory => _memory.Guest;

    public FakePart Device => _device;

    public IReadOnlyList<IMigratable> Parts { get; }

    public List<string> Obstacles { get; } = [];

    public string? FailAt { get; set; }

    public bool Runs { get; private set; }

    public Action? OnStart { get; set; }

    public IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> sourceDescription) => Obstacles;

    /// <summary>Null: all of it.</summary>
    public PageBitmap? Touched { get; set; }

    /// <summary>Null: none.</summary>
    public PageBitmap? Absent { get; set; }

    /// <summary>Whether pages can be given contents ahead of their memory.</summary>
    public bool Puts { get; set; } = true;

    public List<PageRun> Put { get; } = [];

    public MemoryBeforeFilling BeginFilling() => new(Touched ?? Memory.AllPages(), Absent);

    public bool TryPut(PageRun pages, ReadOnlySpan<byte> content)
    {
        lock (Put)
            Put.Add(pages);
        if (Puts)
            content.CopyTo(Memory.PagesSpan(pages.FirstPage, (int)pages.Count));
        return Puts;
    }

    public void AcquireDisks() => Note(nameof(AcquireDisks));

    public void Start()
    {
        Note(nameof(Start));
        OnStart?.Invoke();
        foreach (IMigratable part in Parts)
            part.Start();
        Runs = true;
    }

    public void Dispose() => _memory.Dispose();

    private void Note(string member)
    {
        lock (Journal)
            Journal.Add(member);
        if (FailAt == member)
            throw new InvalidOperationException($"{member} failed as planned.");
    }
}
