using Tidemark.Abi;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// An NVM Express 1.4 controller with one namespace, whose data moves by DMA through an IOMMU.
/// </summary>
/// <remarks>
/// <code>
///  guest: pwrite(doorbell) --> _doorbells[] --wake--> worker thread, step by step under _gate:
///                                                      1. take doorbells      (Queues)
///                                                      2. fetch commands      (Queues)   DMA reads, or the CMB
///                                                      3. one chunk of one command (IO, Admin)  disk, DMA writes
///                                                      4. post completions    (Queues)   DMA writes
///                                                      5. drain, then MSI-X
///  other device: DMA(BAR) --> the CMB, a doorbell, or _peerWrites, which whoever takes _gate carries out first
///  Running --Quiesce--> Quiesced --Freeze--> Frozen --Unfreeze--> Quiesced --Run--> Running
/// </code>
/// Everything but doorbells and interrupt actions is guarded by <c>_gate</c>, and all DMA is made inside it. So whoever
/// holds the gate and has drained the port knows that no DMA is in flight, and a state set under it holds at once.
/// Lock order: the VFIO layer's locks, then <c>_gate</c>, then the port's. An interrupt action is called under the gate
/// and must not wait for a caller of this object.
/// All bytes from a guest are copied before they are parsed.
/// </remarks>
internal sealed partial class NvmeController : SoftDeviceModel
{
    private const uint BarRegion = 0;
    private const uint ConfigRegion = 7;

    private readonly Lock _gate = new();
    private readonly SoftNvme _description;
    private readonly IKernel _host;
    private readonly IDmaPort _port;
    private readonly NvmePciConfig _config;
    private readonly NvmeMsix _msix = new(NvmeLimits.Vectors);
    private readonly NvmeDisk _disk;
    private readonly KernelFd _controllerMemory;
    private readonly Thread _worker;
    private readonly AutoResetEvent _wake = new(initialState: false);
    private readonly byte[] _bounce = new byte[NvmeLimits.ChunkBytes];
    private volatile RunState _state = RunState.Running;
    private volatile bool _stopping;
    private int _asleep;
    private int _gateWanted;
    private Action? _intx;
    private bool _reloadDisk;
    private bool _flushFailed;
    private bool _disposed;

    /// <exception cref="KernelException">The disk, its overlay or the controller's memory can not be
    /// opened.</exception>
    public NvmeController(SoftNvme description, IKernel host, IDmaPort port)
    {
        _description = description;
        _config = new NvmePciConfig(NvmeLimits.Vectors, description);
        _capabilities = ControllerCapabilities.Create(
            NvmeLimits.QueueEntries, timeoutHalfSeconds: 10, description.ControllerMemory);
        _internalMemory = FillInternalMemory(description);
        _host = host;
        _port = port;
        _disk = new NvmeDisk(host, description.Disk);
        try
        {
            SyscallResult memory = host.MemfdCreate("tidemark-nvme-cmb", MemfdFlags.CloseOnExec);
            memory.ThrowIfFailed("Creating the controller memory buffer");
            _controllerMemory = new KernelFd(host, (int)memory.Value);
            host.Ftruncate(_controllerMemory.Number, NvmeBar.ControllerMemoryByteLength)
                .ThrowIfFailed("Sizing the controller memory buffer");
        }
        catch
        {
            // Nothing stays open when the buffer can not be had.
            _controllerMemory?.Dispose();
            _disk.Dispose();
            throw;
        }

        var absent = new SoftRegion(0, false, false, []);
        var area = new SoftMmapArea(0, NvmeBar.ControllerMemoryByteLength, _controllerMemory.Number, HostOffset: 0);
        Regions =
        [
            new SoftRegion(NvmeBar.ByteLength, true, true, []),
            absent,
            description.ControllerMemory
                ? new SoftRegion(NvmeBar.ControllerMemoryByteLength, true, true, [area]) : absent,
            absent, absent, absent, absent,
            new SoftRegion(NvmePciConfig.ByteLength, true, true, []),
            absent,
        ];
        ResetRegisters();
        _worker = new Thread(Work) { IsBackground = true, Name = $"tidemark nvme {description.Address}" };
        _worker.Start();
    }

    private enum RunState
    {
        Running,
        Quiesced,
        Frozen,
    }

    public override IReadOnlyList<SoftRegion> Regions { get; }

    /// <summary>An exception that should not have been possible, for tests; null.</summary>
    public Exception? WorkerDefect { get; private set; }

    public override uint MsixVectors => NvmeLimits.Vectors;

    public override (uint Bar, ulong Offset, ulong ByteLength) MsixTable =>
        (BarRegion, NvmeBar.MsixTable, (ulong)_msix.TableByteLength);

    public override ulong? FunctionResetByte => NvmePciConfig.ExpressOffset + ExpressCapability.ControlOffset + 1;

    public override bool AnswersMemory => _config.MemoryEnabled;

    public override bool HasIntx => true;

    public override bool IsIntxAsserted
    {
        get
        {
            using Lock.Scope held = EnterGate();
            // A doorbell that was rung is as good as taken.
            if (_state == RunState.Running && _ready && !_fatal)
                TakeDoorbells();
            return HoldsPin();
        }
    }

    public override void SetInterrupt(uint vector, Action? raise)
    {
        if (vector >= NvmeLimits.Vectors)
            return;
        using Lock.Scope held = EnterGate();
        _msix.SetAction(vector, raise);
        if (_state == RunState.Running)
            _msix.RaisePending();
    }

    public override void SetMsix(bool enabled)
    {
        using Lock.Scope held = EnterGate();
        _config.MsixEnabled = enabled;
    }

    public override void SetIntx(Action? assert)
    {
        using Lock.Scope held = EnterGate();
        _intx = assert;
        if (_state == RunState.Running)
            AssertPin();
    }

    public override void Reset(bool keepsConfig)
    {
        using (EnterGate())
        {
            _port.Drain();
            ResetRegisters();
            if (!keepsConfig)
                _config.Reset();
            _msix.Reset();
            _controllerMemorySpace = default;
            _reloadDisk = false;
            _state = RunState.Running;
        }

        _wake.Set();
    }

    public override void Run()
    {
        using (EnterGate())
        {
            if (_reloadDisk && _disk.Reload() != Errno.Success)
                FailFatally();
            _reloadDisk = false;
            _state = RunState.Running;
            _msix.RaisePending();
            AssertPin();
        }

        _wake.Set();
    }

    public override void Quiesce()
    {
        using Lock.Scope held = EnterGate();
        // Interrupts of completions that are already posted belong to the time before this transition.
        RaiseInterrupts();
        _port.Drain();
        _unpushed = false;
        _state = RunState.Quiesced;
    }

    /// <summary>
    /// As Quiesced, and written blocks are durable. If that fails, <see cref="SaveFinal"/> has nothing to give.
    /// </summary>
    public override void Freeze()
    {
        using Lock.Scope held = EnterGate();
        _port.Drain();
        _unpushed = false;
        _flushFailed = _disk.Flush() != Errno.Success;
        _state = RunState.Frozen;
    }

    public override void Unfreeze()
    {
        using Lock.Scope held = EnterGate();
        _state = RunState.Quiesced;
    }

    public override void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _stopping = true;
        _wake.Set();
        _worker.Join();
        _port.Drain();
        _wake.Dispose();
        // Whether or not the last flush succeeds, the files are closed: there is nobody left to tell.
        _disk.Flush();
        _disk.Dispose();
        _controllerMemory.Dispose();
    }

    /// <summary>
    /// Takes the gate from another thread than the worker, which steps aside for it between two steps.
    /// </summary>
    private Lock.Scope EnterGate()
    {
        Interlocked.Increment(ref _gateWanted);
        Lock.Scope held = _gate.EnterScope();
        Interlocked.Decrement(ref _gateWanted);
        TakePeerWrites();
        return held;
    }

    private void Work()
    {
        while (!_stopping)
        {
            SpinWait spinner = default;
            while (Volatile.Read(ref _gateWanted) != 0)
                spinner.SpinOnce();
            bool worked;
            lock (_gate)
            {
                TakePeerWrites();
                worked = _state == RunState.Running && TryStep();
            }

            if (worked)
                continue;
            // ORDER: first say that a wake-up is needed, then look again; a doorbell is written before it looks.
            Interlocked.Exchange(ref _asleep, 1);
            if (!_stopping && _peerWrites.IsEmpty
                && !(_state == RunState.Running && Volatile.Read(ref _doorbellsRung) != 0))
                _wake.WaitOne();
            Volatile.Write(ref _asleep, 0);
        }
    }

    private bool TryStep()
    {
        try
        {
            return Step();
        }
        catch (Exception defect)
        {
            // A defect of ours must not end the process that a guest runs in: the controller reports a fatal failure,
            // as
            // hardware would, and is of no use until it is reset.
            WorkerDefect ??= defect;
            FailFatally();
            return false;
        }
    }

    /// <summary>A bounded piece of work. False: there is nothing to do until a doorbell is rung.</summary>
    private bool Step()
    {
        if (!_ready || _fatal)
            return false;
        bool worked = TakeDoorbells();
        worked |= FetchCommands();
        worked |= DeliverEvents();
        worked |= AdvanceCommands();
        if (_completionsSinceInterrupt >= CompletionsPerInterrupt || !worked)
            RaiseInterrupts();
        if (!worked && _unpushed)
        {
            _port.Drain();
            _unpushed = false;
        }

        return worked;
    }

    private bool DmaWrite(ulong iova, ReadOnlySpan<byte> bytes)
    {
        if (!_config.BusMaster || iova > ulong.MaxValue - (ulong)bytes.Length)
            return false;
        _unpushed = true;
        return _port.TryWrite(iova, bytes);
    }

    private bool DmaRead(ulong iova, Span<byte> into) =>
        _config.BusMaster && iova <= ulong.MaxValue - (ulong)into.Length && _port.TryRead(iova, into);

    private void FailFatally()
    {
        _fatal = true;
        _status |= ControllerStatus.FatalBit;
    }
}
