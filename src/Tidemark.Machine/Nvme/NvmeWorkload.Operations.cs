using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>Which blocks are read and written, what they should hold, and the state that moves.</summary>
public sealed partial class NvmeWorkload
{
    private const uint StateMagic = 0x5744_4d54; // "TMDW"
    private const ushort StateVersion = 3;

    /// <summary>LIMIT: buffers of a workload, and so entries of its saved state.</summary>
    private const int MaximumBuffers = 1 << 16;

    /// <summary>One for each buffer: what is in flight into or out of it.</summary>
    private readonly Operation[] _operations;

    private readonly LearnedContent? _learned;
    private readonly byte[] _actual;
    private readonly byte[] _wanted;

    /// <summary>How often each block of the written part was written; 0: never, so its content is unknown.</summary>
    private uint[]? _generations;

    private NvmeWorkloadCounters _counters = new(0, 0, 0, 0, 0, 0, 0, null);
    private ulong _random;
    private ulong _nextUnit;
    private int _nextBuffer;
    private ulong _readBackUnit = ulong.MaxValue;

    private enum OperationKind : byte
    {
        None,
        Read,
        Write,
    }

    /// <summary>Blocks of the options' size that the disk has whole.</summary>
    private ulong UnitCount => Math.Min(
        _driver.Namespace.ByteLength / (ulong)_options.BlockBytes, _learned is null ? ulong.MaxValue : LearnedContent.MaximumUnits);

    private uint[] Generations => _generations ??= new uint[WrittenUnits];

    private ulong FirstWrittenUnit => UnitCount - (ulong)WrittenUnits;

    private int WrittenUnits => _options.WritePercent == 0 || _driver.Namespace.WriteProtected
        ? 0
        : (int)Math.Min(UnitCount / 4, (ulong)_options.WriteUnits);

    /// <summary>The driver's state and this object's. While paused, or before the start.</summary>
    public byte[] SaveState()
    {
        using var writer = new PartStateWriter(StateMagic, StateVersion);
        writer.Block(_driver.SaveState());
        WriteOwn(writer);
        return writer.ToArray();
    }

    /// <summary>This object's state without the driver's.</summary>
    private void WriteOwn(PartStateWriter writer)
    {
        writer.U32((uint)_options.BlockBytes);
        writer.U64(_options.BufferStart.Value);
        writer.U64(_random);
        writer.U64(_nextUnit);
        writer.U32((uint)_nextBuffer);
        writer.U64(_readBackUnit);
        NvmeWorkloadCounters counters = Counters;
        foreach (ulong value in (ReadOnlySpan<ulong>)
            [counters.Reads, counters.Writes, counters.BytesRead, counters.BytesWritten, counters.DataErrors,
             counters.CommandErrors])
            writer.U64(value);
        writer.U32((uint)_operations.Length);
        foreach (Operation operation in _operations)
        {
            writer.U8((byte)operation.Kind);
            if (operation.Kind == OperationKind.None)
                continue;
            writer.U64(operation.Unit);
            writer.U32(operation.Generation);
            writer.U64(operation.Bus);
        }

        writer.U32((uint)Generations.Length);
        foreach (uint generation in Generations)
            writer.U32(generation);
        writer.Flag(_learned is not null);
        _learned?.Save(writer);
    }

    /// <summary>Restores the driver and this object, before <see cref="Start"/>.</summary>
    /// <exception cref="NvmeException">The bytes are damaged or of a workload with other options; this one is not to
    /// be started.</exception>
    public void RestoreState(ReadOnlySpan<byte> state)
    {
        var reader = new PartStateReader(state, StateMagic, StateVersion);
        ReadOnlySpan<byte> driver = reader.Block();
        if (reader.Failed)
            throw NotThisWorkload();
        _driver.RestoreState(driver);
        if (!TryReadOwn(ref reader))
            throw NotThisWorkload();
    }

    /// <summary>What <see cref="WriteOwn"/> wrote, to its end. False: damaged, or of other options.</summary>
    private bool TryReadOwn(ref PartStateReader reader)
    {
        bool good = reader.U32() == (uint)_options.BlockBytes && reader.U64() == _options.BufferStart.Value;
        _random = reader.U64();
        _nextUnit = reader.U64();
        uint nextBuffer = reader.U32();
        _readBackUnit = reader.U64();
        lock (_gate)
        {
            _counters = new NvmeWorkloadCounters(
                reader.U64(), 0, reader.U64(), reader.U64(), reader.U64(), reader.U64(), reader.U64(), null);
        }

        good &= reader.U32() == (uint)_operations.Length && nextBuffer < (uint)_operations.Length;
        int inFlight = 0;
        for (int index = 0; good && index < _operations.Length; index++)
        {
            var kind = (OperationKind)reader.U8();
            good = !reader.Failed && kind <= OperationKind.Write;
            // A migration that is taken up again loads a second time.
            _operations[index] = default;
            if (!good || kind == OperationKind.None)
                continue;
            _operations[index] = new Operation
            {
                Kind = kind, Unit = reader.U64(), Generation = reader.U32(), Bus = reader.U64(),
            };
            good = _operations[index].Unit < UnitCount
                && (kind == OperationKind.Read || IsWritten(_operations[index].Unit));
            inFlight++;
        }

        good = good && inFlight == _driver.OutstandingCount && reader.U32() == (uint)Generations.Length;
        for (int index = 0; good && index < Generations.Length; index++)
            Generations[index] = reader.U32();
        good = good && reader.Flag() == (_learned is not null) && (_learned?.TryLoad(ref reader) ?? true);
        if (!good || !reader.IsComplete)
            return false;
        _nextBuffer = (int)nextBuffer;
        return true;
    }

    private NvmeException NotThisWorkload() =>
        new(
            $"The saved state of NVMe workload {_options.Name} is damaged or belongs to one with other options.");

    /// <summary>Submits the next command. False: no buffer or no block is free at the moment.</summary>
    private bool TryIssue()
    {
        if (UnitCount == 0)
            throw new NvmeException(
                $"The disk of NVMe workload {_options.Name} is smaller than one block of {_options.BlockBytes} bytes.");
        int buffer = FindFreeBuffer();
        if (buffer < 0)
            return false;
        ulong unit = ChooseUnit(out bool write);
        if (IsWritten(unit) && IsBusy(unit))
            return false;
        // The content of a block in the written part is known only after this workload wrote it.
        write |= IsWritten(unit) && GenerationOf(unit) == 0;
        var operation = new Operation { Kind = write ? OperationKind.Write : OperationKind.Read, Unit = unit };
        if (IsWritten(unit))
            operation.Generation = unchecked(GenerationOf(unit) + (write ? 1u : 0u));
        ulong? bus = _options.Dma?.Map(BufferAt(buffer), (ulong)_options.BlockBytes);
        operation.Bus = bus ?? 0;
        _operations[buffer] = operation;
        _rateBytes += (ulong)_options.BlockBytes;
        uint blocks = (uint)_options.BlockBytes / _driver.Namespace.BlockByteLength;
        if (write)
        {
            FillWritten(_wanted, unit, operation.Generation);
            _memory.Write(BufferAt(buffer), _wanted);
            _driver.SubmitWrite(unit * blocks, blocks, BufferAt(buffer), (ulong)buffer, bus);
        }
        else
        {
            _driver.SubmitRead(unit * blocks, blocks, BufferAt(buffer), (ulong)buffer, bus);
        }

        return true;
    }

    private int FindFreeBuffer()
    {
        for (int turn = 0; turn < _operations.Length; turn++)
        {
            int buffer = (_nextBuffer + turn) % _operations.Length;
            if (_operations[buffer].Kind != OperationKind.None)
                continue;
            _nextBuffer = (buffer + 1) % _operations.Length;
            return buffer;
        }

        return -1;
    }

    private ulong ChooseUnit(out bool write)
    {
        write = false;
        if (_readBackUnit < UnitCount)
        {
            ulong readBack = _readBackUnit;
            _readBackUnit = ulong.MaxValue;
            return readBack;
        }

        if (WrittenUnits > 0 && NextRandom() % 100 < (ulong)_options.WritePercent)
        {
            write = true;
            return FirstWrittenUnit + NextRandom() % (ulong)WrittenUnits;
        }

        if (!_options.Sequential)
            return NextRandom() % UnitCount;
        ulong unit = _nextUnit % UnitCount;
        _nextUnit = (unit + 1) % UnitCount;
        return unit;
    }

    private void Finish(NvmeCompletion completion)
    {
        int buffer = (int)Math.Min(completion.Tag, int.MaxValue);
        if (buffer >= _operations.Length || _operations[buffer].Kind == OperationKind.None)
            throw new NvmeException(
                $"NVMe workload {_options.Name} got a completion for buffer {completion.Tag}, which is not in use.");
        Operation operation = _operations[buffer];
        _operations[buffer] = default;
        _options.Dma?.Unmap(operation.Bus);
        string place = string.Create(
            CultureInfo.InvariantCulture,
            $"{operation.Kind} at disk offset 0x{operation.Unit * (ulong)_options.BlockBytes:x}");
        ulong bytes = (ulong)_options.BlockBytes;
        if (!completion.Status.Succeeded)
        {
            string failed = $"{place} failed with NVMe status {completion.Status}.";
            Count(counters => counters with
            {
                CommandErrors = counters.CommandErrors + 1,
                FirstError = counters.FirstError ?? failed,
            });
            // A failed write may or may not have happened: the content is unknown again.
            if (operation.Kind == OperationKind.Write)
                SetGeneration(operation.Unit, 0);
            return;
        }

        if (operation.Kind == OperationKind.Write)
        {
            SetGeneration(operation.Unit, operation.Generation);
            _readBackUnit = operation.Unit;
            Count(counters => counters with
            {
                Writes = counters.Writes + 1,
                BytesWritten = counters.BytesWritten + bytes,
            });
            return;
        }

        string? mismatch = Compare(buffer, operation, place);
        Count(counters => counters with
        {
            Reads = counters.Reads + 1,
            ReadsHere = counters.ReadsHere + 1,
            BytesRead = counters.BytesRead + bytes,
            DataErrors = counters.DataErrors + (mismatch is null ? 0u : 1u),
            FirstError = counters.FirstError ?? mismatch,
        });
    }

    private void Count(Func<NvmeWorkloadCounters, NvmeWorkloadCounters> change)
    {
        lock (_gate)
            _counters = change(_counters);
    }

    /// <summary>Null when the buffer holds what it should; else a sentence.</summary>
    private string? Compare(int buffer, Operation operation, string place)
    {
        _memory.Read(BufferAt(buffer), _actual);
        if (operation.Generation == 0 && _learned is not null)
            return _learned.Check(operation.Unit, _actual) ? null : $"{place} is not what it was when it was read before, in the buffer at {BufferAt(buffer)}.";
        if (operation.Generation != 0)
            FillWritten(_wanted, operation.Unit, operation.Generation);
        else
            _expected!.Read(operation.Unit * (ulong)_options.BlockBytes, _wanted);
        if (_actual.AsSpan().SequenceEqual(_wanted))
            return null;
        int at = _actual.AsSpan().CommonPrefixLength(_wanted);
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{place} differs from byte 0x{at:x} on: 0x{_actual[at]:x2} instead of 0x{_wanted[at]:x2}, " +
            $"in the buffer at {BufferAt(buffer)}.");
    }

    private GuestPhysicalAddress BufferAt(int buffer) =>
        new(_options.BufferStart.Value + (ulong)buffer * (ulong)_options.BlockBytes);

    private bool IsWritten(ulong unit) => WrittenUnits > 0 && unit >= FirstWrittenUnit;

    private uint GenerationOf(ulong unit) => Generations[(int)(unit - FirstWrittenUnit)];

    private void SetGeneration(ulong unit, uint generation) => Generations[(int)(unit - FirstWrittenUnit)] = generation;

    private bool IsBusy(ulong unit)
    {
        foreach (Operation operation in _operations)
        {
            if (operation.Kind != OperationKind.None && operation.Unit == unit)
                return true;
        }

        return false;
    }

    /// <summary>Content of a written block: follows from seed, block and generation.</summary>
    private void FillWritten(Span<byte> into, ulong unit, uint generation)
    {
        ulong state = unchecked(_options.Seed * 0x9e37_79b9_7f4a_7c15 + unit * 0xd1b5_4a32_d192_ed03 + generation);
        for (int offset = 0; offset < into.Length; offset += sizeof(ulong))
            BinaryPrimitives.WriteUInt64LittleEndian(into[offset..], Mix(ref state));
    }

    private ulong NextRandom() => Mix(ref _random);

    /// <summary>SplitMix64: any seed is good, and the whole state is one number that can move.</summary>
    private static ulong Mix(ref ulong state)
    {
        unchecked
        {
            state += 0x9e37_79b9_7f4a_7c15;
            ulong mixed = state;
            mixed = (mixed ^ mixed >> 30) * 0xbf58_476d_1ce4_e5b9;
            mixed = (mixed ^ mixed >> 27) * 0x94d0_49bb_1331_11eb;
            return mixed ^ mixed >> 31;
        }
    }

    private struct Operation
    {
        public OperationKind Kind;
        public ulong Unit;
        public uint Generation;

        /// <summary>The buffer's bus address, with a DMA mapping of the guest.</summary>
        public ulong Bus;
    }
}
