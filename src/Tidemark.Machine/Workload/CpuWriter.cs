using System.Diagnostics;
using Tidemark.Memory;

namespace Tidemark.Machine.Workload;

/// <summary>
/// The processor's part of the workload: writes pages of its working set in a seeded random order at a chosen rate, and
/// a heartbeat into the last page of guest memory.
/// </summary>
/// <remarks>
/// It keeps a ledger of how often it wrote each page and looks before it writes: a page whose content is older than the
/// ledger says has lost a write. So it notices, also without a verification, when a migration forgot a page.
/// </remarks>
public sealed class CpuWriter : IDisposable
{
    private const ulong Mark = 0x544d_4350_5530_3031;

    /// <summary>Between two steps. Whoever watches the heartbeat from outside can not see a gap more exactly than this.</summary>
    private static readonly TimeSpan s_rest = TimeSpan.FromMilliseconds(1);

    private const int PieceBytes = 64 << 10;

    /// <summary>With a fault for each, a tenth of a millisecond.</summary>
    private const int PagesBetweenLooks = 32;

    private readonly GuestMemory _memory;
    private readonly GuestPhysicalAddress _start;
    private readonly GuestPhysicalAddress _heartbeat;
    private readonly ulong _pagesPerSecond;
    private readonly uint[] _ledger;
    private readonly PausableThread _thread;
    private SeededSequence _sequence;
    private ulong _beats;
    private long _lastStep;
    private double _owedPages;
    private ulong _pagesWritten;
    private ulong _stalePages;
    private int _throttlePercent;
    private bool _prepared;

    public CpuWriter(
        GuestMemory memory, (GuestPhysicalAddress Start, ulong ByteLength) workingSet, GuestPhysicalAddress heartbeat,
        ulong bytesPerSecond, int seed)
    {
        _memory = memory;
        _start = workingSet.Start;
        _heartbeat = heartbeat;
        _pagesPerSecond = bytesPerSecond / GuestPage.Size;
        _ledger = new uint[checked((int)(workingSet.ByteLength / GuestPage.Size))];
        _sequence = new SeededSequence((ulong)seed);
        _thread = new PausableThread("processor", Step);
    }

    /// <summary>Pages written by this process, since it was started.</summary>
    public ulong PagesWritten => Volatile.Read(ref _pagesWritten);

    /// <summary>Pages found older than they were written.</summary>
    public ulong StalePages => Volatile.Read(ref _stalePages);

    /// <summary>Counts every write ever made by this workload, on both sides of a move.</summary>
    public ulong Beats => Volatile.Read(ref _beats);

    public bool IsRunning => _thread.IsRunning;

    /// <summary>About how long its state is.</summary>
    public int StateBytes => LedgerBytes + 64;

    private int LedgerBytes => _ledger.Length * sizeof(uint);

    /// <summary>Share of its time that is taken away, in percent (0 to 99).</summary>
    public int ThrottlePercent
    {
        get => Volatile.Read(ref _throttlePercent);
        set => Volatile.Write(ref _throttlePercent, Math.Clamp(value, 0, 99));
    }

    /// <summary>Whether it writes at all.</summary>
    public bool Writes => _pagesPerSecond > 0;

    public Exception? Failure => _thread.Failure;

    /// <summary>
    /// Before a state arrives: the thread is there and stands still until <see cref="Start"/>. One that is made in the pause
    /// of a machine costs it up to a millisecond on a busy host.
    /// </summary>
    public void Prepare()
    {
        _thread.Pause();
        _thread.Start();
        // Not before it is at rest is it told from one that runs.
        _thread.Pause();
        _prepared = true;
    }

    public void Start()
    {
        _thread.Start();
        if (_prepared)
            Resume();
    }

    public void Pause()
    {
        _prepared = false;
        _thread.Pause();
    }

    public void Resume()
    {
        _prepared = false;
        _lastStep = Stopwatch.GetTimestamp();
        _thread.Resume();
    }

    public void Dispose() => _thread.Dispose();

    /// <summary>No page counts as written any more; only while paused.</summary>
    public void Forget() => Array.Clear(_ledger);

    /// <summary>Writes its state; only while paused.</summary>
    public void Save(BinaryWriter writer)
    {
        writer.Write(_sequence.State);
        writer.Write(_beats);
        writer.Write(_ledger.Length);
        // In pieces (x86-64 and arm64 are little-endian), because a call for each number is most of an idle machine's pause.
        byte[] piece = new byte[PieceBytes];
        for (int done = 0; done < LedgerBytes; done += PieceBytes)
        {
            int length = Math.Min(PieceBytes, LedgerBytes - done);
            Buffer.BlockCopy(_ledger, done, piece, 0, length);
            writer.Write(piece, 0, length);
        }
    }

    /// <summary>Takes a state; before <see cref="Start"/>.</summary>
    /// <exception cref="InvalidDataException">It belongs to another working set.</exception>
    public void Load(BinaryReader reader)
    {
        _sequence = new SeededSequence(reader.ReadUInt64());
        _beats = reader.ReadUInt64();
        int length = reader.ReadInt32();
        if (length != _ledger.Length)
            throw new InvalidDataException($"The processor's state is for a working set of {length} pages; this one has {_ledger.Length}.");
        byte[] piece = new byte[PieceBytes];
        for (int done = 0; done < LedgerBytes; done += PieceBytes)
        {
            int part = Math.Min(PieceBytes, LedgerBytes - done);
            reader.BaseStream.ReadExactly(piece, 0, part);
            Buffer.BlockCopy(piece, 0, _ledger, done, part);
        }
    }

    private TimeSpan Step()
    {
        long now = Stopwatch.GetTimestamp();
        if (_lastStep == 0)
            _lastStep = now;
        // LIMIT: after a long wait at most 100 ms of writes are made up for.
        double elapsed = Math.Min(0.1, Stopwatch.GetElapsedTime(_lastStep, now).TotalSeconds);
        _lastStep = now;
        _owedPages += elapsed * _pagesPerSecond * (100 - ThrottlePercent) / 100;
        int pages = (int)Math.Min(_owedPages, 4096);
        int written = 0;
        for (; written < pages; written++)
        {
            // A processor stops between two instructions, and not when it has caught up.
            if (written % PagesBetweenLooks == 0 && _thread.IsPauseWanted)
                break;
            WritePage((int)_sequence.NextBelow((ulong)_ledger.Length));
        }

        _owedPages -= written;
        Volatile.Write(ref _pagesWritten, _pagesWritten + (ulong)written);
        Volatile.Write(ref _beats, _beats + 1);
        _memory.Write(_heartbeat, _beats);
        return s_rest;
    }

    private void WritePage(int page)
    {
        var address = new GuestPhysicalAddress(_start.Value + ((ulong)page << GuestPage.Shift));
        Span<ulong> record = stackalloc ulong[8];
        Span<byte> bytes = stackalloc byte[64];
        _memory.Read(address, bytes);
        uint expected = _ledger[page];
        ulong found = BitConverter.ToUInt64(bytes[8..]);
        ulong mark = BitConverter.ToUInt64(bytes);
        if (expected != 0 && (mark != (Mark ^ (ulong)page) || found != expected))
            Volatile.Write(ref _stalePages, _stalePages + 1);
        _ledger[page] = unchecked(expected + 1) == 0 ? 1 : unchecked(expected + 1);
        record[0] = Mark ^ (ulong)page;
        record[1] = _ledger[page];
        for (int word = 2; word < record.Length; word++)
            record[word] = _sequence.State ^ (ulong)word;
        for (int word = 0; word < record.Length; word++)
            BitConverter.TryWriteBytes(bytes[(word * 8)..], record[word]);
        _memory.Write(address, bytes);
    }
}
