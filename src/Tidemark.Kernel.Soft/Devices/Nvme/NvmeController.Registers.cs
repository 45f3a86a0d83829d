using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Memory;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>Registers, doorbells and regions.</summary>
internal sealed partial class NvmeController
{
    private readonly ControllerCapabilities _capabilities;

    /// <summary>Per queue the submission tail and the completion head that were written last, or -1.</summary>
    private readonly long[] _doorbells = new long[2 * (NvmeLimits.IOQueues + 1)];

    private uint _configuration;
    private uint _status;
    private uint _adminQueueAttributes;
    private ulong _adminSubmissionQueue;
    private ulong _adminCompletionQueue;
    private ControllerMemorySpace _controllerMemorySpace;
    private volatile bool _ready;
    private bool _fatal;
    private int _doorbellsRung;
    private bool _unpushed;

    public override Errno ReadRegion(uint region, ulong offset, Span<byte> into)
    {
        using Lock.Scope held = EnterGate();
        if (region == ConfigRegion)
        {
            _config.Read((int)offset, into);
            return Errno.Success;
        }

        if (region is not (BarRegion or NvmeBar.ControllerMemoryRegion))
            return Errno.EINVAL;
        if (!_config.MemoryEnabled)
            return Errno.EIO;
        if (region == NvmeBar.ControllerMemoryRegion)
            return FileBytes.Read(_host, _controllerMemory, offset, into, NvmeBar.ControllerMemoryByteLength);
        while (!into.IsEmpty)
        {
            int take = PagePart(offset, into.Length);
            Errno errno = ReadBar(offset, into[..take]);
            if (errno != Errno.Success)
                return errno;
            offset += (ulong)take;
            into = into[take..];
        }

        return Errno.Success;
    }

    public override Errno WriteRegion(uint region, ulong offset, ReadOnlySpan<byte> from)
    {
        // The way of every command: no lock, so that a doorbell does not wait for the step that is being made.
        if (region == BarRegion && from.Length == sizeof(uint)
            && offset / GuestPage.Size == NvmeBar.Doorbells / GuestPage.Size)
            return RingDoorbell(offset - NvmeBar.Doorbells, BinaryPrimitives.ReadUInt32LittleEndian(from));
        using Lock.Scope held = EnterGate();
        if (region == ConfigRegion)
        {
            _config.Write((int)offset, from);
            return Errno.Success;
        }

        if (region is not (BarRegion or NvmeBar.ControllerMemoryRegion))
            return Errno.EINVAL;
        if (!_config.MemoryEnabled)
            return Errno.EIO;
        if (region == NvmeBar.ControllerMemoryRegion)
            return FileBytes.Write(_host, _controllerMemory, offset, from);
        while (!from.IsEmpty)
        {
            int take = PagePart(offset, from.Length);
            Errno errno = WriteBar(offset, from[..take]);
            if (errno != Errno.Success)
                return errno;
            offset += (ulong)take;
            from = from[take..];
        }

        return Errno.Success;
    }

    /// <summary>Length of a piece that does not cross a page: each page of the BAR is something else.</summary>
    private static int PagePart(ulong offset, int length) =>
        (int)Math.Min((ulong)length, GuestPage.Size - offset % GuestPage.Size);

    private Errno ReadBar(ulong offset, Span<byte> into)
    {
        into.Clear();
        switch (offset / GuestPage.Size * GuestPage.Size)
        {
            case 0:
                Span<byte> registers = stackalloc byte[(int)NvmeRegister.End];
                FormatRegisters(registers);
                if (offset < NvmeRegister.End)
                    registers[(int)offset..Math.Min(registers.Length, (int)offset + into.Length)].CopyTo(into);
                return Errno.Success;
            case NvmeBar.Doorbells:
                return Errno.Success; // Write only; reads give 0.
            case NvmeBar.MsixTable:
                _msix.ReadTable((int)(offset - NvmeBar.MsixTable), into);
                return Errno.Success;
            default:
                _msix.ReadPending((int)(offset - NvmeBar.MsixPending), into);
                return Errno.Success;
        }
    }

    private Errno WriteBar(ulong offset, ReadOnlySpan<byte> from)
    {
        switch (offset / GuestPage.Size * GuestPage.Size)
        {
            case 0:
                // Section 3.1: registers are accessed in their width, aligned; halves of a 64-bit one are allowed.
                while (from.Length >= sizeof(uint) && offset % sizeof(uint) == 0)
                {
                    WriteRegister(offset, BinaryPrimitives.ReadUInt32LittleEndian(from));
                    offset += sizeof(uint);
                    from = from[sizeof(uint)..];
                }

                return Errno.Success;
            case NvmeBar.Doorbells:
                return Errno.Success; // Not 32 bits wide: undefined in the specification, ignored here.
            case NvmeBar.MsixTable:
                _msix.WriteTable((int)(offset - NvmeBar.MsixTable), from);
                if (_state == RunState.Running)
                    _msix.RaisePending();
                return Errno.Success;
            default:
                return Errno.Success; // The pending bits are read only.
        }
    }

    private Errno RingDoorbell(ulong offset, uint value)
    {
        if (!_config.MemoryEnabled)
            return Errno.EIO;
        if (!_ready || offset % sizeof(uint) != 0)
            return Errno.Success;
        ulong index = offset / sizeof(uint);
        if (index < (ulong)_doorbells.Length)
            Interlocked.Exchange(ref _doorbells[index], value);
        else
            Volatile.Write(ref _strayDoorbell, true);
        Interlocked.Exchange(ref _doorbellsRung, 1);
        if (Volatile.Read(ref _asleep) != 0)
            _wake.Set();
        return Errno.Success;
    }

    private void FormatRegisters(Span<byte> into)
    {
        into.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(into, _capabilities.Value);
        BinaryPrimitives.WriteUInt32LittleEndian(into[(int)NvmeRegister.Version..], NvmeRegister.Version14);
        BinaryPrimitives.WriteUInt32LittleEndian(into[(int)NvmeRegister.Configuration..], _configuration);
        BinaryPrimitives.WriteUInt32LittleEndian(into[(int)NvmeRegister.Status..], _status);
        BinaryPrimitives.WriteUInt32LittleEndian(into[(int)NvmeRegister.AdminQueueAttributes..], _adminQueueAttributes);
        BinaryPrimitives.WriteUInt64LittleEndian(into[(int)NvmeRegister.AdminSubmissionQueue..], _adminSubmissionQueue);
        BinaryPrimitives.WriteUInt64LittleEndian(into[(int)NvmeRegister.AdminCompletionQueue..], _adminCompletionQueue);
        BinaryPrimitives.WriteUInt64LittleEndian(
            into[(int)NvmeRegister.ControllerMemorySpace..], _controllerMemorySpace.Value);
        if (!_controllerMemorySpace.RegistersEnabled || !_description.ControllerMemory)
            return;
        const uint Pages = (uint)(NvmeBar.ControllerMemoryByteLength / GuestPage.Size);
        BinaryPrimitives.WriteUInt32LittleEndian(
            into[(int)NvmeRegister.ControllerMemoryLocation..],
            ControllerMemoryLocation.Create(NvmeBar.ControllerMemoryRegion, offsetUnits: 0).Value);
        BinaryPrimitives.WriteUInt32LittleEndian(
            into[(int)NvmeRegister.ControllerMemorySize..],
            ControllerMemorySize.CreateForSubmissionQueues(Pages).Value);
    }

    private void WriteRegister(ulong offset, uint value)
    {
        bool enabled = new ControllerConfiguration(_configuration).Enabled;
        switch (offset)
        {
            case NvmeRegister.Configuration:
                Configure(value);
                break;
            case NvmeRegister.AdminQueueAttributes when !enabled:
                _adminQueueAttributes = value & 0x0fff_0fff;
                break;
            case NvmeRegister.AdminSubmissionQueue when !enabled:
                _adminSubmissionQueue = WithLow(_adminSubmissionQueue, value & ~0xfffu);
                break;
            case NvmeRegister.AdminSubmissionQueue + 4 when !enabled:
                _adminSubmissionQueue = WithHigh(_adminSubmissionQueue, value);
                break;
            case NvmeRegister.AdminCompletionQueue when !enabled:
                _adminCompletionQueue = WithLow(_adminCompletionQueue, value & ~0xfffu);
                break;
            case NvmeRegister.AdminCompletionQueue + 4 when !enabled:
                _adminCompletionQueue = WithHigh(_adminCompletionQueue, value);
                break;
            case NvmeRegister.ControllerMemorySpace when _description.ControllerMemory:
                _controllerMemorySpace = new(WithLow(_controllerMemorySpace.Value, value & ~0xffcu));
                break;
            case NvmeRegister.ControllerMemorySpace + 4 when _description.ControllerMemory:
                _controllerMemorySpace = new(WithHigh(_controllerMemorySpace.Value, value));
                break;
            default:
                break; // Read only, reserved, or without meaning for this controller.
        }
    }

    private static ulong WithLow(ulong register, uint value) => register & ~(ulong)uint.MaxValue | value;

    private static ulong WithHigh(ulong register, uint value) => register & uint.MaxValue | (ulong)value << 32;

    /// <summary>A write of CC: enable, disable (a controller reset), shut down.</summary>
    private void Configure(uint value)
    {
        var before = new ControllerConfiguration(_configuration);
        var after = new ControllerConfiguration(value & 0x00ff_fff1);
        _configuration = after.Value;
        if (before.Enabled && !after.Enabled)
            ResetController(after);
        else if (!before.Enabled && after.Enabled)
            Enable(after);
        if (after.ShutdownNotification == 0 || after.ShutdownNotification == before.ShutdownNotification)
            return;
        if (_disk.Flush() != Errno.Success)
            FailFatally();
        _status = _status & ~ControllerStatus.ShutdownMask | ControllerStatus.ShutdownComplete;
    }

    private void Enable(ControllerConfiguration configuration)
    {
        var sizes = new AdminQueueAttributes(_adminQueueAttributes);
        bool usable = configuration is { CommandSet: 0, Arbitration: 0, PageShift: PrpGeometry.PageShift }
            && sizes.SubmissionEntries >= 2 && sizes.CompletionEntries >= 2;
        if (!usable)
        {
            // Section 3.1.5: unsupported values have undefined results; the guest is told at once.
            FailFatally();
            return;
        }

        // Another controller may have written the same disk while this one was off.
        if (_disk.Reload() != Errno.Success)
        {
            FailFatally();
            return;
        }

        _completionQueues[0] = new NvmeCompletionQueue
        {
            Id = 0,
            Address = _adminCompletionQueue,
            Entries = sizes.CompletionEntries,
            Vector = 0,
            InterruptsEnabled = true,
        };
        _submissionQueues[0] = new NvmeSubmissionQueue
        {
            Id = 0,
            Address = _adminSubmissionQueue,
            Entries = sizes.SubmissionEntries,
            CompletionQueue = 0,
        };
        _status = ControllerStatus.ReadyBit;
        _ready = true;
    }

    /// <summary>
    /// Section 7.3.2: queues and commands are gone; the admin queue registers and the CMB's address stay.
    /// </summary>
    private void ResetController(ControllerConfiguration configuration)
    {
        uint attributes = _adminQueueAttributes;
        ulong submission = _adminSubmissionQueue;
        ulong completion = _adminCompletionQueue;
        ResetRegisters();
        _configuration = configuration.Value;
        _adminQueueAttributes = attributes;
        _adminSubmissionQueue = submission;
        _adminCompletionQueue = completion;
    }

    private void ResetRegisters()
    {
        _ready = false;
        _fatal = false;
        _configuration = 0;
        _status = 0;
        _adminQueueAttributes = 0;
        _adminSubmissionQueue = 0;
        _adminCompletionQueue = 0;
        ForgetDoorbells();
        Array.Clear(_submissionQueues);
        Array.Clear(_completionQueues);
        Array.Clear(_inFlight);
        _commands.Clear();
        _eventRequests.Clear();
        _events.Clear();
        _errorEventsMasked = false;
        _interrupts = UInt128.Zero;
        _completionsSinceInterrupt = 0;
        _nextQueue = 0;
        ResetFeatures();
    }

    private void ForgetDoorbells()
    {
        for (int index = 0; index < _doorbells.Length; index++)
            Volatile.Write(ref _doorbells[index], -1);
        Volatile.Write(ref _strayDoorbell, false);
        Volatile.Write(ref _doorbellsRung, 0);
    }
}
