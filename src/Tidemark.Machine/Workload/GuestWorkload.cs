using System.Text;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Workload;

/// <summary>
/// What stands in for the guest's processors: a writer to memory and one reader for each device. As a part of the
/// machine its state moves last, when it stands still, and it goes on where it stopped.
/// </summary>
internal sealed class GuestWorkload : IMigratable, IDisposable
{
    private const uint Mark = 0x4B57_4D54;
    private const uint Version = 1;

    /// <summary>
    /// LIMIT: the ledger of the largest working set that a machine file allows, and the drivers' queues.
    /// </summary>
    private const int MaximumStateBytes = 16 << 20;

    /// <summary>Enough for the queues of a few drivers; more of them make the room grow.</summary>
    private const int DriversBytes = 64 << 10;

    private readonly IReadOnlyList<GuestDevice> _devices;
    private readonly PartStateBuffer _state = new();
    private bool _paused;
    private ulong _beatsAtPause;

    public GuestWorkload(
        GuestMemory memory, MemoryLayout layout, WorkloadDescription description, IReadOnlyList<GuestDevice> devices)
    {
        _devices = devices;
        Processor = new CpuWriter(memory, layout.WorkingSet, layout.Heartbeat, description.CpuBytesPerSecond, description.Seed);
    }

    public string Name => "workload";

    public CpuWriter Processor { get; }

    /// <summary>Why a part of it ended by itself, or null.</summary>
    public string? Failure
    {
        get
        {
            if (Processor.Failure is { } failure)
                return $"The processor's writer ended: {failure.Message}";
            foreach (GuestDevice device in _devices)
            {
                if (device.Failure is { } cause)
                    return $"The reader of {device.Name} ended: {cause}";
            }

            return null;
        }
    }

    public void StartFresh()
    {
        foreach (GuestDevice device in _devices)
            device.StartFresh();
        Processor.Start();
    }

    public void Pause()
    {
        Processor.Pause();
        foreach (GuestDevice device in _devices)
            device.Pause();
        _paused = true;
        _beatsAtPause = Processor.Beats;
    }

    public void Resume()
    {
        _paused = false;
        foreach (GuestDevice device in _devices)
            device.Resume();
        Processor.Resume();
    }

    /// <summary>Begins again from nothing, as after <see cref="StartFresh"/>.</summary>
    /// <param name="writeMemory">Called while nothing runs.</param>
    /// <exception cref="InvalidOperationException">It is paused.</exception>
    public void Reset(Action writeMemory)
    {
        if (_paused)
            throw new InvalidOperationException("A machine that stands still can not be reset by its guest.");
        Processor.Pause();
        foreach (GuestDevice device in _devices)
            device.Pause();
        try
        {
            foreach (GuestDevice device in _devices)
                device.Reset();
            Processor.Forget();
            writeMemory();
        }
        finally
        {
            foreach (GuestDevice device in _devices)
                device.Resume();
            Processor.Resume();
        }
    }

    /// <summary>What runs, or has run since <see cref="Pause"/>, although nothing may.</summary>
    public IEnumerable<string> FindRunners()
    {
        if (!_paused)
            yield return "the workload was resumed";
        else if (Processor.Beats != _beatsAtPause)
            yield return "the processor has written since it was stopped";
        if (_paused && Processor.IsRunning)
            yield return "the processor runs";
    }

    public void BeginSave()
    {
        // Processors have no state to send while they run.
        _state.Clear();
        _state.Reserve(outgoing: Processor.StateBytes + DriversBytes);
    }

    public StateEstimate Estimate() => new(0, 0, _state.Left ?? SaveEstimate());

    public int ReadState(Span<byte> buffer)
    {
        return _paused ? _state.Read(buffer, made => Save(made, static device => device.Save())) : 0;
    }

    public void EnterP2P()
    {
        // Processors have stopped before devices hold back their DMA.
    }

    public void Stop() => Invariant.Require(_paused, "The workload is asked for its final state while it runs.");

    public void EndSave() => _state.Clear();

    public void Recover()
    {
        _state.Clear();
        // ResumeWorkload follows, after the devices run.
    }

    public void BeginLoad()
    {
        _state.Clear();
        _state.Reserve(incoming: Processor.StateBytes + DriversBytes);
        Processor.Prepare();
    }

    public void WriteState(ReadOnlySpan<byte> bytes) => _state.Write(bytes, MaximumStateBytes, "The workload's state");

    public void EndLoad() => Load(_state.OpenArrived(), static (device, state) => device.Load(state));

    /// <summary>The state for a process that goes on with the devices as they are; only while paused.</summary>
    public byte[] SaveForAdoption()
    {
        using var made = new MemoryStream();
        Save(made, static device => device.SaveForAdoption());
        return made.ToArray();
    }

    /// <summary>Takes it, before <see cref="Start"/>.</summary>
    /// <exception cref="InvalidDataException">It is damaged, or another machine's.</exception>
    public void Adopt(byte[] state) => Load(new MemoryStream(state), static (device, own) => device.Adopt(own));

    private void Load(MemoryStream state, Action<GuestDevice, byte[]> load)
    {
        try
        {
            using var reader = new BinaryReader(state);
            if (reader.ReadUInt32() != Mark || reader.ReadUInt32() != Version)
                throw new InvalidDataException("The workload's state is of another version.");
            Processor.Load(reader);
            if (reader.ReadInt32() != _devices.Count)
                throw new InvalidDataException("The workload's state is for another number of devices.");
            foreach (GuestDevice device in _devices)
            {
                int length = reader.ReadInt32();
                if (length < 0 || length > MaximumStateBytes)
                    throw new InvalidDataException($"The driver state of {device.Name} has an impossible length.");
                load(device, reader.ReadBytes(length));
            }
        }
        catch (EndOfStreamException failure)
        {
            // Nothing runs yet; the engine refuses the migration.
            throw new InvalidDataException("The workload's state is cut short.", failure);
        }
    }

    /// <inheritdoc/>
    public void PrepareStart()
    {
        // It has no DMA that a peer could wait for.
    }

    public void Start()
    {
        foreach (GuestDevice device in _devices)
            device.Start();
        Processor.Start();
    }

    /// <summary>As <see cref="Start"/>, and it stands still until <see cref="Resume"/>.</summary>
    public void StartStandingStill()
    {
        Pause();
        Start();
    }

    public void Dispose()
    {
        // Ended as it stands, paused or not: a machine that has moved away must not take another step here.
        Processor.Dispose();
    }

    private ulong SaveEstimate() => (ulong)Processor.StateBytes + DriversBytes;

    private void Save(MemoryStream into, Func<GuestDevice, byte[]> save)
    {
        using var writer = new BinaryWriter(into, Encoding.UTF8, leaveOpen: true);
        writer.Write(Mark);
        writer.Write(Version);
        Processor.Save(writer);
        writer.Write(_devices.Count);
        foreach (GuestDevice device in _devices)
        {
            byte[] state = save(device);
            writer.Write(state.Length);
            writer.Write(state);
        }
    }
}
