using System.Buffers.Binary;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>Finds a device of a group, building it when needed; null with the errno when that fails.</summary>
internal delegate Errno GroupDeviceFinder(out SoftVfioDevice? device);

/// <summary>
/// An IOMMU group as <c>/dev/vfio/N</c> shows it: devices, which are all reached through the group's file or all
/// through their cdevs, never both.
/// </summary>
/// <remarks>
/// <code>
/// no file --open--> no container --SET_CONTAINER(container)--> in a container --GET_DEVICE_FD--> devices open
///                        |       &lt;-------UNSET_CONTAINER-------   (EBUSY while devices are open)
///                        +---------SET_CONTAINER(iommufd)----> on an iommufd's compatibility IOAS
/// </code>
/// A device that was opened through a container keeps the group's file open; one on an iommufd does not, and outlives
/// UNSET_CONTAINER as well.
/// Lock order: <see cref="_gate"/>, then the device's, then the container's, then its IOMMU's, then the port's.
/// </remarks>
internal sealed class VfioGroup(SoftKernel kernel, int number, IommuGroup? iommu)
{
    private const int StatusLength = (int)VfioGroupStatus.StructSize;

    /// <summary>LIMIT: bytes of a device's name, its end included: a page, as in Linux.</summary>
    private const int LongestName = 4096;

    private readonly Lock _gate = new();
    private readonly List<(string Name, GroupDeviceFinder Find)> _devices = [];
    private VfioContainer? _container;
    private IommufdContext? _iommufd;
    private VfioGroupFile? _file;
    private bool _fileIsClosed;
    private int _cdevUsers;

    /// <summary>Devices open through the container.</summary>
    private int _containerUsers;

    /// <summary>In the group's node, links and lists.</summary>
    public int Number { get; } = number;

    /// <summary>The ways of the group's devices to memory; null: they have none of their own (mediated).</summary>
    public IommuGroup? Iommu { get; } = iommu;

    private bool HasIommu => _container is not null || _iommufd is not null;

    /// <summary>A device more. Before the group can be reached.</summary>
    /// <param name="name">As sysfs has it.</param>
    public void Add(string name, GroupDeviceFinder find) => _devices.Add((name, find));

    /// <summary>open(2) of the node. EBUSY: open already, or a device's cdev is bound.</summary>
    public Errno TryOpen(out SoftFile? file)
    {
        file = null;
        lock (_gate)
        {
            if (_cdevUsers != 0 || _file is not null)
                return Errno.EBUSY;
            file = _file = new VfioGroupFile(this);
            _fileIsClosed = false;
            return Errno.Success;
        }
    }

    /// <summary>A cdev is about to be bound. EBUSY: the group's file is open.</summary>
    public Errno TryBlock()
    {
        lock (_gate)
        {
            if (_file is not null)
                return Errno.EBUSY;
            _cdevUsers++;
            return Errno.Success;
        }
    }

    /// <summary>Ends what <see cref="TryBlock"/> began.</summary>
    public void Unblock()
    {
        lock (_gate)
            _cdevUsers--;
    }

    /// <summary>The last descriptor of the file was closed; devices opened through a container keep it.</summary>
    public void CloseFile()
    {
        lock (_gate)
        {
            _fileIsClosed = true;
            ReleaseFile();
        }
    }

    public Errno GetStatus(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, StatusLength, out VfioGroupStatus status))
            return Errno.EFAULT;
        if (status.Argsz < StatusLength)
            return Errno.EINVAL;
        lock (_gate)
        {
            status.Flags = HasIommu ? VfioGroupFlags.ContainerSet | VfioGroupFlags.Viable
                : Iommu is { IsClaimed: true } ? VfioGroupFlags.None
                : VfioGroupFlags.Viable;
        }

        VfioArgument.Write(argument, status, StatusLength);
        return Errno.Success;
    }

    public Errno SetContainer(ReadOnlySpan<byte> argument)
    {
        if (!BinaryPrimitives.TryReadInt32LittleEndian(argument, out int descriptor))
            return Errno.EFAULT;
        Errno errno = kernel.TryHold(descriptor, out OpenFile? held);
        if (errno != Errno.Success)
            return errno;
        try
        {
            lock (_gate)
            {
                if (HasIommu)
                    return Errno.EINVAL;
                return held?.File switch
                {
                    VfioContainerFile file => SetContainer(file.Container),
                    IommufdFile file => SetIommufd(file.Context),
                    _ => Errno.EBADFD,
                };
            }
        }
        finally
        {
            kernel.Drop(held);
        }
    }

    public Errno UnsetContainer()
    {
        lock (_gate)
        {
            if (!HasIommu)
                return Errno.EINVAL;
            if (_containerUsers != 0)
                return Errno.EBUSY;
            LeaveIommu();
            return Errno.Success;
        }
    }

    /// <summary>GET_DEVICE_FD. Value: the descriptor.</summary>
    public SyscallResult GetDeviceFd(ReadOnlySpan<byte> argument)
    {
        Errno errno = FindDevice(argument, out SoftVfioDevice? device);
        VfioOpenDevice? open = null;
        if (errno == Errno.Success)
        {
            lock (_gate)
            {
                lock (device!.Gate)
                    errno = TryOpenDevice(device, out open);
            }
        }

        return open is null
            ? SyscallResult.Fail(errno)
            : ((IVfioHost)kernel).Install(new VfioGroupDeviceFile(this, device!, open));
    }

    /// <summary>A file of <see cref="GetDeviceFd"/> was closed.</summary>
    public void CloseDevice(SoftVfioDevice device)
    {
        lock (_gate)
        {
            lock (device.Gate)
                device.End();
            ReleaseFile();
        }
    }

    /// <summary>
    /// Whether a hot reset's list of group descriptors names the groups of all that the reset touches. EBADF: one is not
    /// open; EINVAL: too many, something else, or one missing.
    /// </summary>
    public Errno CheckHotReset(
        ReadOnlySpan<byte> descriptors, uint count, IReadOnlyList<IPciFunction> functions)
    {
        if (count > functions.Count)
            return Errno.EINVAL;
        if (descriptors.Length / sizeof(int) < count)
            return Errno.EFAULT;
        var named = new HashSet<VfioGroup>(ReferenceEqualityComparer.Instance);
        for (int index = 0; index < count; index++)
        {
            int descriptor = BinaryPrimitives.ReadInt32LittleEndian(descriptors[(index * sizeof(int))..]);
            Errno errno = kernel.TryHold(descriptor, out OpenFile? held);
            if (errno != Errno.Success)
                return errno;
            VfioGroup? group = (held?.File as VfioGroupFile)?.Group;
            kernel.Drop(held);
            if (group is null)
                return Errno.EINVAL;
            named.Add(group);
        }

        bool all = functions.All(function => function.Group is { } group && named.Contains(group));
        return all ? Errno.Success : Errno.EINVAL;
    }

    private Errno SetContainer(VfioContainer container)
    {
        Errno errno = container.Attach(this);
        if (errno == Errno.Success)
            _container = container;
        return errno;
    }

    private Errno SetIommufd(IommufdContext context)
    {
        // The caller holds the file, so the context is alive.
        context.TryHold();
        context.EnsureCompatibilityIoas();
        _iommufd = context;
        return Errno.Success;
    }

    private void LeaveIommu()
    {
        _container?.Detach(this);
        _container = null;
        _iommufd?.Drop();
        _iommufd = null;
    }

    private void ReleaseFile()
    {
        if (_file is null || !_fileIsClosed || _containerUsers != 0)
            return;
        LeaveIommu();
        _file = null;
    }

    /// <summary>By a name, and perhaps options after a space; there is only one option, and it fits no device.</summary>
    private Errno FindDevice(ReadOnlySpan<byte> argument, out SoftVfioDevice? device)
    {
        device = null;
        int end = argument.IndexOf((byte)0);
        if (end < 0)
            return argument.Length >= LongestName ? Errno.EINVAL : Errno.EFAULT;
        if (end >= LongestName)
            return Errno.EINVAL;
        string asked = Encoding.Latin1.GetString(argument[..end]);
        foreach ((string name, GroupDeviceFinder find) in _devices)
        {
            if (!asked.StartsWith(name, StringComparison.Ordinal))
                continue;
            string options = asked[name.Length..];
            // A mediated device is known by its exact name.
            if (options.Length != 0 && (options[0] != ' ' || Iommu is null))
                continue;
            // vf_token= is for virtual functions, which this device is not; anything else is unknown.
            return options.AsSpan().Trim(' ').IsEmpty ? find(out device) : Errno.EINVAL;
        }

        return Errno.ENODEV;
    }

    private Errno TryOpenDevice(SoftVfioDevice device, out VfioOpenDevice? open)
    {
        open = null;
        if (!HasIommu)
            return Errno.EINVAL;
        if (device.Opened is not null)
        {
            open = device.Share();
            return Errno.Success;
        }

        if (device.IsDisposed)
            return Errno.ENODEV;
        if (_iommufd is not null)
            return TryOpenOnIommufd(device, _iommufd, out open);
        if (!_container!.HasIommu)
            return Errno.EINVAL;
        _containerUsers++;
        open = device.Begin(new ContainerBinding(this), throughGroup: true);
        return Errno.Success;
    }

    private static Errno TryOpenOnIommufd(
        SoftVfioDevice device, IommufdContext iommufd, out VfioOpenDevice? open)
    {
        open = null;
        Errno errno = device.Bind(iommufd, out IBoundDevice? bound);
        if (errno != Errno.Success || bound is null)
            return errno;
        open = device.Begin(bound, throughGroup: true);
        errno = iommufd.TryGetCompatibilityIoas(out uint ioas);
        if (errno == Errno.Success)
            errno = bound.Attach(ref ioas);
        if (errno == Errno.Success)
            return errno;
        open = null;
        device.End();
        return errno;
    }

    /// <summary>The binding of a device to the container of its group: the attachment is the group's own.</summary>
    private sealed class ContainerBinding(VfioGroup group) : IBoundDevice
    {
        public uint DeviceId => 0;

        /// <summary>There is no iommufd.</summary>
        public uint DeviceIdOf(IDmaPort port) => VfioPciDependentDevice.DevidNotOwned;

        public Errno Attach(ref uint pageTableId) => Errno.ENOTTY;

        public void Detach()
        {
        }

        public bool HasPasids => false;

        public Errno TryAttachPasid(uint pasid, ref uint pageTableId, bool replace) => Errno.EOPNOTSUPP;

        public void DetachPasid(uint pasid)
        {
        }

        public void Unbind() => group._containerUsers--;
    }
}
