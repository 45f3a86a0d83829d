using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

/// <summary>
/// What stands for the soft kernel: one iommufd, a page or two of the caller's memory, a table of files.
/// </summary>
internal sealed class FakeVfioHost : IVfioHost, IIommuBinder
{
    public const int Iommufd = 500;
    public const int NotIommufd = 501;
    public const ulong MemoryStart = 0x7000_0000;

    private int _next = 1000;

    public FakeHostKernel HostKernel { get; } = new();

    public IKernel Host => HostKernel;

    public byte[] Memory { get; } = new byte[0x8000];

    public Dictionary<int, SoftFile> Files { get; } = [];

    public bool TableFull { get; set; }

    public Errno BindAnswer { get; set; } = Errno.Success;

    public FakeBoundDevice? Bound { get; private set; }

    public Errno FindIommu(int descriptor, out IIommuBinder? iommu)
    {
        iommu = descriptor == Iommufd ? this : null;
        return descriptor switch
        {
            Iommufd => Errno.Success,
            NotIommufd => Errno.EBADFD,
            _ => Errno.EBADF,
        };
    }

    public Errno Bind(IDmaPort port, out IBoundDevice? bound)
    {
        bound = BindAnswer == Errno.Success ? Bound = new FakeBoundDevice() : null;
        return BindAnswer;
    }

    public Errno BindAccess(IIoasAccessOwner owner, bool pinsPages, out IoasAccess? access)
    {
        access = null;
        return Errno.EBADF;
    }

    public List<IPeerTarget> Placed { get; } = [];

    public bool TryPlace(IPeerTarget region, out ulong physical)
    {
        Placed.Add(region);
        physical = (ulong)Placed.Count << 30;
        return true;
    }

    public SyscallResult Install(SoftFile file)
    {
        if (TableFull)
            return SyscallResult.Fail(Errno.EMFILE);
        Files.Add(++_next, file);
        return SyscallResult.Ok(_next);
    }

    public bool TryReadUser(ulong address, Span<byte> into)
    {
        if (!Holds(address, into.Length))
            return false;
        Memory.AsSpan((int)(address - MemoryStart), into.Length).CopyTo(into);
        return true;
    }

    /// <summary>Runs before the next copy to the caller: what another thread does at that moment.</summary>
    public Action? BeforeCopyOut { get; set; }

    public bool TryWriteUser(ulong address, ReadOnlySpan<byte> from)
    {
        Action? action = BeforeCopyOut;
        BeforeCopyOut = null;
        action?.Invoke();
        if (!Holds(address, from.Length))
            return false;
        from.CopyTo(Memory.AsSpan((int)(address - MemoryStart)));
        return true;
    }

    private bool Holds(ulong address, int length) =>
        address >= MemoryStart && address - MemoryStart <= (ulong)Memory.Length
        && (ulong)length <= (ulong)Memory.Length - (address - MemoryStart);
}

/// <summary>A device object of an iommufd that writes down what it is told.</summary>
internal sealed class FakeBoundDevice : IBoundDevice
{
    public const uint AutoDomain = 9;

    public List<string> Calls { get; } = [];

    public Errno AttachAnswer { get; set; } = Errno.Success;

    public uint DeviceId => 3;

    public uint DeviceIdOf(IDmaPort port) => DeviceId;

    public Errno Attach(ref uint pageTableId)
    {
        Calls.Add($"Attach {pageTableId}");
        if (AttachAnswer == Errno.Success)
            pageTableId = AutoDomain;
        return AttachAnswer;
    }

    public void Detach() => Calls.Add("Detach");

    public bool HasPasids { get; init; }

    public Errno TryAttachPasid(uint pasid, ref uint pageTableId, bool replace)
    {
        Calls.Add($"{(replace ? "Replace" : "Attach")} {pasid}: {pageTableId}");
        return AttachAnswer;
    }

    public void DetachPasid(uint pasid) => Calls.Add($"Detach {pasid}");

    public void Unbind() => Calls.Add("Unbind");
}

/// <summary>A port whose stores land when it is drained, and not before.</summary>
internal sealed class FakeDmaPort : IDmaPort
{
    private readonly List<ulong> _posted = [];

    public IDmaWriteObserver? WriteObserver { get; set; }

    public HashSet<ulong> Landed { get; } = [];

    /// <summary>Runs at the beginning of the next drain: what another thread does at that moment.</summary>
    public Action? BeforeDrain { get; set; }

    public bool TryWrite(ulong iova, ReadOnlySpan<byte> bytes)
    {
        WriteObserver?.OnWrite(iova, (ulong)bytes.Length);
        _posted.Add(iova);
        return true;
    }

    public bool TryRead(ulong iova, Span<byte> into) => false;

    public void Drain()
    {
        Action? action = BeforeDrain;
        BeforeDrain = null;
        action?.Invoke();
        Landed.UnionWith(_posted);
        _posted.Clear();
    }
}
