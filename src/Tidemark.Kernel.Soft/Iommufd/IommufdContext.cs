using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// What an open <c>/dev/iommu</c> refers to: the objects and their lock. The descriptor and every bound device keep it
/// alive; when the last of them goes, everything is destroyed.
/// </summary>
/// <remarks>
/// Lock order of the soft kernel: a VFIO device's locks, then <see cref="Gate"/>, then a <see cref="DevicePort"/>'s
/// lock, then <see cref="UserMemory"/>'s, then a <see cref="MemoryObject"/>'s, then <see cref="PhysicalMemory"/>'s. A
/// port's lock is never held when <see cref="Gate"/> is taken, so DMA goes on during every call here.
/// FIDELITY: one lock for the context, where Linux has one per IOAS; EBUSY for a mapping in progress never happens.
/// </remarks>
internal sealed partial class IommufdContext : IIommuBinder
{
    private readonly SoftKernel _kernel;
    private Ioas? _compatibilityIoas;
    private bool _chargesProcess;
    private int _references = 1;

    /// <param name="chargesProcess">Where locked memory is charged at first; a container's way is the process.</param>
    public IommufdContext(SoftKernel kernel, bool chargesProcess)
    {
        _kernel = kernel;
        _chargesProcess = chargesProcess;
    }

    public Lock Gate { get; } = new();

    public IommuObjectTable Objects { get; } = new();

    private UserMemory User => _kernel.User;

    /// <summary>
    /// Makes a device object. EBADF: the context has ended; EPERM: the device's group has another owner;
    /// EINVAL: not a port of this kernel.
    /// </summary>
    public Errno Bind(IDmaPort port, out IBoundDevice? bound)
    {
        bound = null;
        if (port is not DevicePort devicePort)
            return Errno.EINVAL;
        lock (Gate)
        {
            if (_references == 0)
                return Errno.EBADF;
            if (!devicePort.Group.TryClaim(this))
                return Errno.EPERM;
            _references++;
            BoundGroup group = Objects.All.OfType<BoundDevice>()
                .FirstOrDefault(other => ReferenceEquals(other.Port.Group, devicePort.Group))?.Group
                ?? new BoundGroup(devicePort.Group);
            var device = new BoundDevice(this, devicePort, group);
            Objects.Add(device);
            bound = device;
            return Errno.Success;
        }
    }

    public Errno BindAccess(IIoasAccessOwner owner, bool pinsPages, out IoasAccess? access)
    {
        access = null;
        lock (Gate)
        {
            if (_references == 0)
                return Errno.EBADF;
            _references++;
            access = new IoasAccess(this, owner, pinsPages);
            Objects.Add(access);
            return Errno.Success;
        }
    }

    /// <summary>One reference less; the last one destroys the objects, leaves first.</summary>
    public void Drop()
    {
        lock (Gate)
        {
            if (--_references != 0)
                return;
            // What nothing uses goes first; then nothing uses the next.
            int before;
            do
            {
                before = Objects.Count;
                foreach (IommuObject item in Objects.All.ToArray())
                    Objects.TryDestroy(item.Id);
            }
            while (Objects.Count != 0 && Objects.Count != before);
        }

        _kernel.Forget(this);
    }

    public void ForgetCompatibilityIoas(Ioas ioas)
    {
        if (ReferenceEquals(_compatibilityIoas, ioas))
            _compatibilityIoas = null;
    }

    /// <summary>A filled page table with an id. On failure nothing is changed.</summary>
    public Errno TryCreateHwpt(
        Ioas ioas, IommuDriver driver, IommuHwptAllocFlags flags, bool automatic, out Hwpt? hwpt)
    {
        hwpt = null;
        Errno chosen = driver.Choose(flags, hasData: false, out PageTableFormat? format);
        return chosen == Errno.Success ? TryCreateHwpt(ioas, driver, format!, automatic, out hwpt) : chosen;
    }

    /// <summary>As above, with a table of a format that was chosen already.</summary>
    public Errno TryCreateHwpt(Ioas ioas, IommuDriver driver, PageTableFormat format, bool automatic, out Hwpt? hwpt)
    {
        hwpt = null;
        if (IoPageTable.TryCreate(_kernel.Physical, format) is not IoPageTable table)
            return Errno.ENOMEM;
        var created = new Hwpt(_kernel, ioas, table, driver, automatic);
        Errno errno = ioas.TryAddTable(created);
        if (errno != Errno.Success)
        {
            table.Dispose();
            return errno;
        }

        Objects.Add(created);
        hwpt = created;
        return Errno.Success;
    }

    private Errno Destroy(ref IommuDestroy command) => Objects.TryDestroy(command.Id);

    private Errno AllocateIoas(ref IommuIoasAlloc command)
    {
        if (command.Flags != 0)
            return Errno.EOPNOTSUPP;
        var ioas = new Ioas(this);
        Objects.Add(ioas);
        command.OutIoasId = ioas.Id;
        return Errno.Success;
    }

    private Errno CompatibilityIoas(ref IommuVfioIoas command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        switch (command.Op)
        {
            case IommuVfioIoasOp.Get:
                if (_compatibilityIoas is null)
                    return Errno.ENODEV;
                command.IoasId = _compatibilityIoas.Id;
                return Errno.Success;
            case IommuVfioIoasOp.Set:
                if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
                    return Errno.ENOENT;
                _compatibilityIoas = ioas;
                return Errno.Success;
            case IommuVfioIoasOp.Clear:
                _compatibilityIoas = null;
                return Errno.Success;
            default:
                return Errno.EOPNOTSUPP;
        }
    }

    private Errno Option(ref IommuOption command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (command.Op is not (IommuOptionOp.Get or IommuOptionOp.Set))
            return Errno.EOPNOTSUPP;
        switch (command.OptionId)
        {
            case IommuOptionId.RlimitMode:
                return RlimitMode(ref command);
            case IommuOptionId.HugePages:
                if (Objects.Find<Ioas>(command.ObjectId) is not Ioas ioas)
                    return Errno.ENOENT;
                if (command.Op == IommuOptionOp.Set)
                    return ioas.SetLargeLeaves(command.Val64);
                command.Val64 = ioas.LargeLeaves ? 1UL : 0;
                return Errno.Success;
            default:
                return Errno.EOPNOTSUPP;
        }
    }

    private Errno RlimitMode(ref IommuOption command)
    {
        if (command.ObjectId != 0)
            return Errno.EOPNOTSUPP;
        if (command.Op == IommuOptionOp.Get)
        {
            command.Val64 = _chargesProcess ? 1UL : 0;
            return Errno.Success;
        }

        // ORDER: the right (CAP_SYS_RESOURCE), whether it is late, the value.
        if (!_kernel.Caller.IsPrivileged)
            return Errno.EPERM;
        if (Objects.Count != 0)
            return Errno.EBUSY;
        if (command.Val64 > 1)
            return Errno.EINVAL;
        _chargesProcess = command.Val64 == 1;
        return Errno.Success;
    }

    private Errno ChangeProcess(ref IommuIoasChangeProcess command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        SoftProcess caller = _kernel.Caller;
        // Copies share a page set, which moves once.
        var moving = new HashSet<PageCharge>(ReferenceEqualityComparer.Instance);
        foreach (IoasArea area in Objects.All.OfType<Ioas>().SelectMany(ioas => ioas.Areas))
        {
            if (!area.Pages.IsFile)
                return Errno.EINVAL;
            if (area.Pages.Charge is PageCharge charge && charge.MovesTo(caller))
                moving.Add(charge);
        }

        // ORDER: the new owner is charged before the old one is given anything back, even where both are one user.
        ReadOnlySpan<PageAccount> accounts = [PageAccount.None, PageAccount.User, PageAccount.Process];
        Span<ulong> pages = stackalloc ulong[accounts.Length];
        foreach (PageCharge charge in moving)
            pages[(int)charge.Account] += charge.Pages;
        foreach (PageAccount account in accounts)
        {
            Errno errno = PageCharge.TryAdd(caller, account, pages[(int)account]);
            if (errno == Errno.Success)
                continue;
            foreach (PageAccount before in accounts[..(int)account])
                PageCharge.Remove(caller, before, pages[(int)before]);
            return errno;
        }

        foreach (PageCharge charge in moving)
            charge.MoveTo(caller);
        return Errno.Success;
    }

    /// <summary>For pages that the caller maps now.</summary>
    private PageCharge NewCharge() => PageCharge.Of(_kernel.Caller, _chargesProcess);
}
