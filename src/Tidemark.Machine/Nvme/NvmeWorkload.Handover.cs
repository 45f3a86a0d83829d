using System.Diagnostics;
using System.Globalization;
using Tidemark.Machine.Handover;
using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>The driver-assisted hand-over: the workload and its driver as one, because completions must reach both.</summary>
public sealed partial class NvmeWorkload : IHandoverDriver
{
    private const uint HandoverMagic = 0x4844_4d54; // "TMDH"
    private const ushort HandoverVersion = 2;

    /// <summary>LIMIT: serial and model numbers, 20 and 40 characters.</summary>
    private const int MaximumTextBytes = 64;

    private bool _halted;
    private bool _known;

    /// <inheritdoc/>
    public IReadOnlyList<KeyValuePair<string, string>> Identity => _known ? Describe(_driver.Identity) : [];

    /// <inheritdoc/>
    public string? FindObstacle() => Failure is { } failure
        ? $"The reader of {_options.Name} has ended, so it can not hand its controller over: {failure.Message}"
        : null;

    /// <summary>Sets the controller up for a machine that starts here.</summary>
    /// <exception cref="NvmeException">As <see cref="NvmeDriver.Initialize"/>, or its disk does not fit the
    /// options.</exception>
    public void SetUp()
    {
        _driver.Initialize();
        _known = true;
        _halted = false;
        NvmeNamespaceInfo info = _driver.Namespace;
        if ((uint)_options.BlockBytes > info.MaximumTransferBytes || (uint)_options.BlockBytes % info.BlockByteLength != 0)
        {
            throw new NvmeException(
                $"The disk of {_options.Name} has blocks of {info.BlockByteLength} bytes and takes transfers of up to "
                + $"{info.MaximumTransferBytes}; commands of {_options.BlockBytes} bytes (\"blockSize\") do not fit.");
        }

        if (UnitCount == 0)
        {
            throw new NvmeException(
                $"The disk of {_options.Name} has {info.ByteLength} bytes, and one command takes {_options.BlockBytes} (\"blockSize\").");
        }
    }

    /// <inheritdoc/>
    void IHandoverDriver.Quiesce(TimeSpan limit)
    {
        Invariant.Require(!_thread.IsRunning, $"The reader of {_options.Name} is to be quiesced while it runs.");
        long start = Stopwatch.GetTimestamp();
        // The time in which nobody looked at completions is not the controller's.
        _driver.RestartTimeouts();
        while (_driver.OutstandingCount > 0)
        {
            while (_driver.TryComplete(out NvmeCompletion completion))
                Finish(completion);
            if (_driver.OutstandingCount == 0)
                return;
            TimeSpan left = limit - Stopwatch.GetElapsedTime(start);
            if (left <= TimeSpan.Zero)
            {
                throw new TimeoutException(
                    $"{_driver.OutstandingCount} commands of {_options.Name} did not complete within {limit.TotalSeconds} s; they stay in flight.");
            }

            _driver.WaitForCompletion(left < s_waitSlice ? left : s_waitSlice);
        }
    }

    /// <inheritdoc/>
    IDisposable? IHandoverDriver.TryStandStill(TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        if (!Monitor.TryEnter(_driverGate, limit))
            return null;
        IDisposable? standstill = null;
        Rest? had = null;
        try
        {
            standstill = _thread.TryRest(limit - Stopwatch.GetElapsedTime(start));
            if (standstill is null)
                return null;
            ((IHandoverDriver)this).Quiesce(limit - Stopwatch.GetElapsedTime(start));
            return had = new Rest(standstill, _driverGate);
        }
        catch (TimeoutException)
        {
            // What is in flight stays so, and the thread goes on to wait for it.
            return null;
        }
        finally
        {
            // Also after another failure: the thread goes on and meets what went wrong itself.
            if (had is null)
            {
                standstill?.Dispose();
                Monitor.Exit(_driverGate);
            }
        }
    }

    /// <inheritdoc/>
    void IHandoverDriver.Halt()
    {
        if (_halted)
            return;
        Invariant.Require(_driver.OutstandingCount == 0, $"{_options.Name} is to be halted with commands in flight.");
        // From here on only a new set-up makes it work, also when the shutdown fails half way.
        _halted = true;
        _driver.Shutdown();
    }

    /// <inheritdoc/>
    byte[] IHandoverDriver.SaveState()
    {
        Invariant.Require(_halted, $"{_options.Name} is asked for its hand-over state while it works.");
        using var writer = new PartStateWriter(HandoverMagic, HandoverVersion);
        NvmeDiskIdentity identity = _driver.Identity;
        writer.Block(System.Text.Encoding.ASCII.GetBytes(identity.SerialNumber));
        writer.Block(System.Text.Encoding.ASCII.GetBytes(identity.ModelNumber));
        writer.U64(identity.BlockCount);
        writer.U32(identity.BlockByteLength);
        WriteOwn(writer);
        return writer.ToArray();
    }

    /// <inheritdoc/>
    void IHandoverDriver.Resume()
    {
        if (!_halted)
            return;
        NvmeDiskIdentity before = _driver.Identity;
        SetUp();
        if (_driver.Identity != before)
            throw new NvmeException($"The controller of {_options.Name} shows another disk than before: {_driver.Identity} instead of {before}.");
    }

    /// <inheritdoc/>
    void IHandoverDriver.Prepare()
    {
        if (_known && _halted)
            return;
        SetUp();
        _driver.Shutdown();
        _halted = true;
    }

    /// <inheritdoc/>
    void IHandoverDriver.LoadState(ReadOnlySpan<byte> state)
    {
        Invariant.Require(_known && _halted, $"{_options.Name} is to take over a disk that it does not know.");
        var reader = new PartStateReader(state, HandoverMagic, HandoverVersion);
        ReadOnlySpan<byte> serial = reader.Block();
        ReadOnlySpan<byte> model = reader.Block();
        if (reader.Failed || serial.Length > MaximumTextBytes || model.Length > MaximumTextBytes)
            throw new InvalidDataException($"The hand-over state of {_options.Name} is damaged.");
        var there = new NvmeDiskIdentity(
            System.Text.Encoding.ASCII.GetString(serial), System.Text.Encoding.ASCII.GetString(model), reader.U64(), reader.U32());
        string[] differences = [.. Describe(there).Zip(Describe(_driver.Identity))
            .Where(pair => pair.First.Value != pair.Second.Value)
            .Select(pair => $"{pair.First.Key} is {pair.First.Value} there and {pair.Second.Value} here")];
        if (differences.Length > 0)
            throw new InvalidDataException($"The disk of {_options.Name} is another one: {string.Join(", ", differences)}.");
        if (!TryReadOwn(ref reader))
            throw new InvalidDataException($"The hand-over state of {_options.Name} is damaged or of other options.");
    }

    /// <inheritdoc/>
    void IHandoverDriver.TakeOver()
    {
        NvmeDiskIdentity prepared = _driver.Identity;
        SetUp();
        if (_driver.Identity != prepared)
            throw new NvmeException($"The controller of {_options.Name} shows another disk than when it was prepared: {_driver.Identity} instead of {prepared}.");
    }

    /// <summary>The thread stands still and the driver is nobody else's, until it is disposed by the thread that has it.</summary>
    private sealed class Rest(IDisposable standstill, object driverGate) : IDisposable
    {
        private bool _ended;

        public void Dispose()
        {
            if (_ended)
                return;
            _ended = true;
            standstill.Dispose();
            Monitor.Exit(driverGate);
        }
    }

    private KeyValuePair<string, string>[] Describe(NvmeDiskIdentity identity)
    {
        KeyValuePair<string, string>[] size =
        [
            new("blocks", identity.BlockCount.ToString(CultureInfo.InvariantCulture)),
            new("blockBytes", identity.BlockByteLength.ToString(CultureInfo.InvariantCulture)),
        ];
        return _options.DiskMatch == DiskMatch.Copy
            ? size
            : [new("serial", identity.SerialNumber), new("model", identity.ModelNumber), .. size];
    }
}
