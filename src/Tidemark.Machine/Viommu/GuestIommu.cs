using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Viommu;

/// <summary>
/// The machine's own IOMMU: what its guest sees before each device, and what the guest decides about it.
/// </summary>
/// <remarks>
/// <code>
/// guest:   Map(iova, guest-physical), Unmap, SetMode            one endpoint for each device
///             |
///   Blocked        nothing is mapped: the device's DMA fails
///   PassThrough    all guest memory, IOVA = guest-physical address
///   Translated     what the guest has mapped, wherever it likes
///             |
/// DmaContainer of that device alone: each guest mapping becomes one of the host's, of the same pages
/// </code>
/// Dirty bits come back by IOVA; each mapping remembers its guest-physical address, so a harvest translates them. An
/// unmap takes the bits of what goes (<see cref="AssignmentTracking.Unmap"/>). As a part of the machine its mappings
/// move with it, and are there before a device runs.
/// </remarks>
public sealed class GuestIommu : IMigratable
{
    private const uint Mark = 0x494D_4D54;
    private const ushort Version = 1;
    private const int MappingLength = 24;

    /// <summary>Mark, version, number of endpoints.</summary>
    private const int HeadLength = 10;

    /// <summary>Mode, number of mappings.</summary>
    private const int EndpointLength = 8;

    /// <summary>LIMIT: mappings of one endpoint, and so bytes of state; type1 has a limit of the same size.</summary>
    internal const int MaximumMappings = 65535;

    private readonly Lock _gate = new();
    private readonly List<GuestIommuEndpoint> _endpoints = [];
    private readonly PartStateBuffer _state = new();
    private bool _stopped;

    public string Name => "viommu";

    /// <summary>One for each device behind it, in the order of the machine's devices.</summary>
    public IReadOnlyList<GuestIommuEndpoint> Endpoints => _endpoints;

    /// <inheritdoc/>
    public void BeginSave()
    {
        _state.Clear();
        _stopped = false;
    }

    /// <inheritdoc/>
    public StateEstimate Estimate() =>
        new(0, 0, (ulong)(HeadLength + _endpoints.Sum(endpoint => EndpointLength + ((long)endpoint.Mappings.Count * MappingLength))));

    /// <inheritdoc/>
    public int ReadState(Span<byte> buffer) => _stopped ? _state.Read(buffer, Save) : 0;

    /// <inheritdoc/>
    public void EnterP2P()
    {
        // It has no DMA of its own.
    }

    /// <inheritdoc/>
    public void Stop() => _stopped = true;

    /// <inheritdoc/>
    public void EndSave() => _state.Clear();

    /// <inheritdoc/>
    public void Recover()
    {
        _state.Clear();
        _stopped = false;
    }

    /// <inheritdoc/>
    public void BeginLoad() => _state.Clear();

    /// <inheritdoc/>
    public void WriteState(ReadOnlySpan<byte> bytes) => _state.Write(
        bytes, HeadLength + (_endpoints.Count * (EndpointLength + ((long)MaximumMappings * MappingLength))), "The virtual IOMMU's state");

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">It is no state of such an IOMMU; some endpoints may be set.</exception>
    /// <exception cref="KernelException">The host refused a mapping.</exception>
    public void EndLoad() => Load(_state.Arrived, static (endpoint, mode, mappings) =>
    {
        endpoint.SetMode(mode);
        foreach (GuestMapping mapping in mappings)
            endpoint.Map(mapping.Iova, mapping.Guest, mapping.ByteLength);
    });

    /// <summary>The state for a process that goes on with the same containers.</summary>
    internal byte[] SaveForAdoption() => Save();

    /// <summary>Takes it: the containers have all of its mappings already.</summary>
    /// <exception cref="InvalidDataException">It is no state of such an IOMMU.</exception>
    internal void Adopt(ReadOnlySpan<byte> state) =>
        Load(state, static (endpoint, mode, mappings) => endpoint.Adopt(mode, mappings));

    private void Load(ReadOnlySpan<byte> state, Action<GuestIommuEndpoint, EndpointMode, IReadOnlyList<GuestMapping>> apply)
    {
        var reader = new PartStateReader(state, Mark, Version);
        uint endpoints = reader.U32();
        if (reader.Failed || endpoints != _endpoints.Count)
            throw new InvalidDataException("The virtual IOMMU's state is of another version or another machine.");
        foreach (GuestIommuEndpoint endpoint in _endpoints)
        {
            var mode = (EndpointMode)reader.U32();
            uint count = reader.U32();
            if (reader.Failed || !Enum.IsDefined(mode) || count > MaximumMappings)
                throw new InvalidDataException($"The virtual IOMMU's state for {endpoint.Name} is damaged.");
            // Grows with what there is, not with what a number says.
            var mappings = new List<GuestMapping>();
            for (uint index = 0; index < count; index++)
            {
                ulong iova = reader.U64(), guest = reader.U64(), length = reader.U64();
                if (reader.Failed)
                    throw new InvalidDataException($"The virtual IOMMU's state for {endpoint.Name} is cut short.");
                mappings.Add(new GuestMapping(new Iova(iova), new GuestPhysicalAddress(guest), length));
            }

            apply(endpoint, mode, mappings);
        }

        if (!reader.IsComplete)
            throw new InvalidDataException("The virtual IOMMU's state is longer than it says.");
    }

    /// <inheritdoc/>
    public void PrepareStart()
    {
        // It has no DMA that a peer could wait for.
    }

    /// <inheritdoc/>
    public void Start()
    {
        // Mappings are there since EndLoad; devices start after it.
    }

    /// <summary>Puts a device that is attached alone to a container behind this IOMMU; blocked at first.</summary>
    internal GuestIommuEndpoint Add(string name, DmaContainer container, GuestMemory memory, KernelFd memoryFile)
    {
        var endpoint = new GuestIommuEndpoint(name, container, memory, memoryFile);
        lock (_gate)
            _endpoints.Add(endpoint);
        return endpoint;
    }

    private byte[] Save()
    {
        using var writer = new PartStateWriter(Mark, Version);
        writer.U32((uint)_endpoints.Count);
        foreach (GuestIommuEndpoint endpoint in _endpoints)
        {
            IReadOnlyList<GuestMapping> mappings = endpoint.Mappings;
            writer.U32((uint)endpoint.Mode);
            writer.U32((uint)mappings.Count);
            foreach (GuestMapping mapping in mappings)
            {
                writer.U64(mapping.Iova.Value);
                writer.U64(mapping.Guest.Value);
                writer.U64(mapping.ByteLength);
            }
        }

        return writer.ToArray();
    }
}

/// <summary>What a guest lets a device reach.</summary>
public enum EndpointMode : uint
{
    /// <summary>Nothing.</summary>
    Blocked,

    /// <summary>All of guest memory at its guest-physical addresses.</summary>
    PassThrough,

    /// <summary>What the guest maps.</summary>
    Translated,
}

/// <summary>One mapping that the guest made.</summary>
/// <param name="ByteLength">A multiple of the page size, not 0.</param>
public readonly record struct GuestMapping(Iova Iova, GuestPhysicalAddress Guest, ulong ByteLength);

/// <summary>One device behind the machine's IOMMU. Members may be called from any thread.</summary>
public sealed class GuestIommuEndpoint
{
    private readonly Lock _gate = new();
    private readonly DmaContainer _container;
    private readonly GuestMemory _memory;
    private readonly KernelFd _memoryFile;
    private readonly Dictionary<ulong, GuestMapping> _mappings = [];
    private Func<DmaContainer, IovaRange, ulong> _unmap = static (container, range) => container.Unmap(range);

    internal GuestIommuEndpoint(string name, DmaContainer container, GuestMemory memory, KernelFd memoryFile)
    {
        Name = name;
        _container = container;
        _memory = memory;
        _memoryFile = memoryFile;
    }

    /// <summary>How many mappings it takes; a state that moves can hold no more than the default.</summary>
    internal int MaximumMappings { get; init; } = GuestIommu.MaximumMappings;

    /// <summary>The device's name.</summary>
    public string Name { get; }

    public EndpointMode Mode { get; private set; }

    /// <summary>The guest's mappings, ascending by IOVA; empty unless <see cref="EndpointMode.Translated"/>.</summary>
    public IReadOnlyList<GuestMapping> Mappings
    {
        get { lock (_gate) return [.. _mappings.Values.OrderBy(mapping => mapping.Iova.Value)]; }
    }

    /// <summary>Changes what the device reaches: what was mapped goes, with its dirty bits taken along.</summary>
    /// <exception cref="KernelException">There is no such mode: nothing changed. The host refused: the endpoint is
    /// blocked, or still has what could not be unmapped.</exception>
    public void SetMode(EndpointMode mode)
    {
        // A guest's number.
        if (!Enum.IsDefined(mode))
            throw new KernelException($"Setting {Name} to mode {(uint)mode} of the virtual IOMMU", Errno.EINVAL);
        lock (_gate)
        {
            if (mode == Mode && mode != EndpointMode.Translated)
                return;
            try
            {
                foreach (Iommu.MappedArea area in _container.Areas)
                    _unmap(_container, area.Range);
            }
            catch (KernelException)
            {
                ForgetUnmapped();
                throw;
            }

            _mappings.Clear();
            Mode = EndpointMode.Blocked;
            if (mode == EndpointMode.PassThrough)
                _container.MapMemory(_memory, _memoryFile);
            Mode = mode;
        }
    }

    /// <summary>Goes on with what is mapped already.</summary>
    internal void Adopt(EndpointMode mode, IReadOnlyList<GuestMapping> mappings)
    {
        lock (_gate)
        {
            Mode = mode;
            _mappings.Clear();
            foreach (GuestMapping mapping in mappings)
                _mappings.Add(mapping.Iova.Value, mapping);
        }
    }

    /// <summary>The guest maps some of its memory for the device.</summary>
    /// <exception cref="KernelException">The mode is another, the memory is not the guest's, there are too many mappings,
    /// or the host refused; nothing changed.</exception>
    public void Map(Iova iova, GuestPhysicalAddress guest, ulong byteLength)
    {
        lock (_gate)
        {
            string operation = $"Mapping 0x{byteLength:x} bytes of guest memory at {guest} for {Name} at {iova}";
            if (Mode != EndpointMode.Translated)
                throw new KernelException($"{operation} (mode {Mode})", Errno.EINVAL);
            // A guest's numbers: whatever they are, they get one answer.
            if (byteLength == 0 || (iova.Value | guest.Value | byteLength) % GuestPage.Size != 0
                || _memory.FindSlot(guest, byteLength) is null)
            {
                throw new KernelException(
                    operation, Errno.EFAULT, "The guest named what is not whole pages of its memory.");
            }

            if (byteLength - 1 > ulong.MaxValue - iova.Value)
                throw new KernelException(operation, Errno.EOVERFLOW);
            // More than this would not fit into the state that moves.
            if (_mappings.Count >= MaximumMappings)
                throw new KernelException(operation, Errno.ENOSPC, "The guest must take mappings back first.");
            _container.Map(iova, _memory.Cut(guest, byteLength), _memoryFile);
            _mappings.Add(iova.Value, new GuestMapping(iova, guest, byteLength));
        }
    }

    /// <summary>The guest takes a mapping back, whole. Nothing when there is none at that IOVA.</summary>
    /// <exception cref="KernelException">The host refused; the mapping is still there.</exception>
    public void Unmap(Iova iova)
    {
        lock (_gate)
        {
            if (!_mappings.TryGetValue(iova.Value, out GuestMapping mapping))
                return;
            _unmap(_container, IovaRange.FromLength(iova, mapping.ByteLength));
            _mappings.Remove(iova.Value);
        }
    }

    /// <summary>After a failure in the middle: the list is what is still mapped.</summary>
    private void ForgetUnmapped()
    {
        IReadOnlyList<Iommu.MappedArea> left = _container.Areas;
        foreach (GuestMapping mapping in _mappings.Values.ToArray())
        {
            IovaRange range = IovaRange.FromLength(mapping.Iova, mapping.ByteLength);
            if (!left.Any(area => range.Contains(area.Range)))
                _mappings.Remove(mapping.Iova.Value);
        }
    }

    /// <summary>From now on, what is unmapped is unmapped by way of the dirty tracking.</summary>
    internal void Connect(AssignmentTracking tracking) => _unmap = tracking.Unmap;
}
