using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Handover;

/// <summary>A device without migration states as a part of a machine that moves, with the help of its driver.</summary>
/// <remarks>
/// <code>
/// source        Working --BeginSave--> Saving --EnterP2P: Quiesce--> Quiet --Stop: Halt, bus master off--> Halted
///               any --Recover: Resume--> Working
/// destination   Working --BeginLoad: Prepare, bus master off--> Loading --EndLoad--> Loaded --Start--> Working
/// </code>
/// The bus master bit is cleared by this object and not by the driver, so that a driver that forgets something can not
/// let its device write after the final harvest. Drawn with the engine's steps in <see cref="IHandoverDriver"/>.
/// </remarks>
public sealed class DriverAssistedMigratable : IMigratable
{
    /// <summary>LIMIT: state of a driver, not of a device: queues and bookkeeping.</summary>
    private const int MaximumStateBytes = 16 << 20;

    private readonly IHandoverDriver _driver;
    private readonly IBusMaster _busMaster;
    private readonly TimeSpan _quiesceLimit;
    private readonly PartStateBuffer _state = new();
    private Stage _stage;

    /// <param name="quiesceLimit">How long commands in flight may take at the switchover; the source runs on when they
    /// take longer.</param>
    public DriverAssistedMigratable(string name, IHandoverDriver driver, IBusMaster busMaster, TimeSpan quiesceLimit)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(busMaster);
        Name = name;
        _driver = driver;
        _busMaster = busMaster;
        _quiesceLimit = quiesceLimit;
    }

    private enum Stage
    {
        Working,
        Saving,
        Quiet,
        Halted,
        Loading,
        Loaded,
    }

    public string Name { get; }

    public IHandoverDriver Driver => _driver;

    /// <summary>What could still write to guest memory, for users; null when the device stands still.</summary>
    public string? FindRunning()
    {
        if (_stage is not (Stage.Halted or Stage.Loading or Stage.Loaded))
            return $"{Name} is driven by its driver";
        return _busMaster.IsOn ? $"{Name} may start DMA: its bus master bit is on" : null;
    }

    /// <inheritdoc/>
    public void BeginSave()
    {
        if (_driver.FindObstacle() is { } obstacle)
            throw new InvalidOperationException(obstacle);
        _state.Clear();
        _stage = Stage.Saving;
    }

    /// <inheritdoc/>
    public StateEstimate Estimate() => new(0, 0, _state.Left);

    /// <inheritdoc/>
    public int ReadState(Span<byte> buffer) =>
        _stage == Stage.Halted ? _state.Read(buffer, _driver.SaveState) : 0;

    /// <summary>Nothing in flight is nothing that could reach a peer.</summary>
    public void EnterP2P()
    {
        // It may have failed since the beginning: what it had in flight is nobody's then.
        if (_driver.FindObstacle() is { } obstacle)
            throw new InvalidOperationException(obstacle);
        _driver.Quiesce(_quiesceLimit);
        _stage = Stage.Quiet;
    }

    /// <inheritdoc/>
    public void Stop()
    {
        Invariant.Require(_stage == Stage.Quiet, $"{Name} is to be halted with commands in flight.");
        _driver.Halt();
        _busMaster.TurnOff();
        _stage = Stage.Halted;
    }

    /// <inheritdoc/>
    public void EndSave() => _state.Clear();

    /// <inheritdoc/>
    public void Recover()
    {
        _state.Clear();
        if (_stage == Stage.Working)
            return;
        _driver.Resume();
        _stage = Stage.Working;
    }

    /// <summary>Finds out what device this is, so that a wrong one is refused before anything is sent.</summary>
    public void Prepare()
    {
        _driver.Prepare();
        _busMaster.TurnOff();
        _stage = Stage.Loading;
    }

    /// <inheritdoc/>
    public void BeginLoad()
    {
        _state.Clear();
        Prepare();
    }

    /// <inheritdoc/>
    public void WriteState(ReadOnlySpan<byte> bytes) =>
        _state.Write(bytes, MaximumStateBytes, $"The driver state of {Name}");

    /// <inheritdoc/>
    public void EndLoad()
    {
        _driver.LoadState(_state.Arrived);
        _state.Clear();
        _stage = Stage.Loaded;
    }

    /// <inheritdoc/>
    public void PrepareStart()
    {
        // It has no DMA that a peer could wait for.
    }

    /// <inheritdoc/>
    public void Start()
    {
        Invariant.Require(_stage == Stage.Loaded, $"{Name} is to start without its driver's state.");
        _driver.TakeOver();
        _stage = Stage.Working;
    }
}
