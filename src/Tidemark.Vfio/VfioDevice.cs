using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;

namespace Tidemark.Vfio;

/// <summary>
/// An assigned device: its descriptor and everything that is asked of it.
/// </summary>
/// <remarks>
/// <code>
/// Open/FromFd --BindIommufd--> bound (has a DeviceId) --TryAttach--> DMA possible
///                                 ^                                       |
///                   DMA blocked   +---------------- TryDetach ------------+         any --Dispose--> gone
/// </code>
/// A descriptor answers EINVAL to nearly everything before it is bound. There is no unbind: closing does it, and
/// closing also resets the device. Interrupts and the data stream of a migration must be given up before.
/// </remarks>
public sealed class VfioDevice : IDisposable
{
    private readonly Dictionary<uint, VfioRegion> _regions = [];
    private readonly Lock _gate = new();
    private VfioDeviceInfo? _info;

    private VfioDevice(KernelFd fd, string name, bool isMdev)
    {
        Fd = fd;
        Name = name;
        IsMdev = isMdev;
    }

    /// <summary>The descriptor; valid until <see cref="Dispose"/>.</summary>
    public KernelFd Fd { get; }

    public IKernel Kernel => Fd.Kernel;

    /// <summary>What users call it: the PCI address, or what the caller of <see cref="FromFd"/> said.</summary>
    public string Name { get; }

    /// <summary>A mediated device: its driver translates DMA itself, no IOMMU page table is involved.</summary>
    public bool IsMdev { get; }

    /// <summary>The id in the iommufd it is bound to, or null before <see cref="BindIommufd"/>.</summary>
    public uint? DeviceId { get; private set; }

    /// <summary>Numbers of regions and interrupts, and what kind of device it is. Asked once, after binding.</summary>
    /// <exception cref="KernelException">The device did not answer.</exception>
    public VfioDeviceInfo Info
    {
        get
        {
            lock (_gate)
            {
                if (_info is { } known)
                    return known;
                VfioDeviceInfo argument = VfioDeviceInfo.Create();
                Kernel.Ioctl(Fd, ref argument).ThrowIfFailed($"Asking {Name} for its regions and interrupts");
                if (StepEvents.Log.IsEnabled())
                    StepEvents.Log.DeviceDescribed(Name, argument.NumRegions, argument.NumIrqs, argument.Flags.ToString());
                _info = argument;
                return argument;
            }
        }
    }

    /// <summary>Opens a PCI device that is bound to a VFIO driver.</summary>
    /// <param name="pciAddress">As the kernel writes it, <c>0000:01:00.0</c>.</param>
    /// <param name="name">What users call it; null: the PCI address.</param>
    /// <exception cref="KernelException">No such device, not bound to a VFIO driver, or not openable; the remedy says
    /// which.</exception>
    public static VfioDevice Open(IKernel kernel, ISysfs sysfs, string pciAddress, string? name = null)
    {
        string folder = VfioDiscovery.GetPciFolder(pciAddress);
        return OpenFolder(kernel, sysfs, folder, name ?? pciAddress);
    }

    /// <summary>Opens any device by its folder under <c>/sys</c>, mediated devices included.</summary>
    /// <exception cref="KernelException">As <see cref="Open"/>.</exception>
    public static VfioDevice OpenFolder(IKernel kernel, ISysfs sysfs, string folder, string name)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        string node = VfioDiscovery.FindDeviceNode(sysfs, folder, name);
        SyscallResult result = kernel.Open(node, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!result.Succeeded)
        {
            string? remedy = result.Errno switch
            {
                Errno.ENOENT => "The device node is missing: is devtmpfs (or udev) in use here?",
                Errno.EACCES or Errno.EPERM => $"Run as a user who may open {node}, or pass an open descriptor.",
                Errno.EBUSY => "Somebody uses the device or its group already.",
                _ => null,
            };
            throw new KernelException($"Opening {node} for {name}", result.Errno, remedy);
        }

        StepEvents.Log.DeviceOpened(name, node, (int)result.Value);
        return new VfioDevice(
            new KernelFd(kernel, checked((int)result.Value)), name, VfioDiscovery.IsMdev(sysfs, folder));
    }

    /// <summary>Uses a device descriptor that somebody else opened.</summary>
    /// <param name="isMdev">Nothing can be looked up behind a descriptor, so the caller says it.</param>
    public static VfioDevice FromFd(KernelFd fd, string name, bool isMdev = false)
    {
        ArgumentNullException.ThrowIfNull(fd);
        StepEvents.Log.DeviceOpened(name, "handed in", fd.Number);
        return new VfioDevice(fd, name, isMdev);
    }

    /// <summary>Goes on with a device that another process opened and bound to its iommufd.</summary>
    public static VfioDevice Adopt(KernelFd fd, string name, uint deviceId, bool isMdev)
    {
        ArgumentNullException.ThrowIfNull(fd);
        StepEvents.Log.DeviceOpened(name, "from another process", fd.Number);
        return new VfioDevice(fd, name, isMdev) { DeviceId = deviceId };
    }

    /// <summary>Binds the device to an iommufd, once and for good.</summary>
    /// <exception cref="KernelException">Refused; the device is as before.</exception>
    public uint BindIommufd(Iommufd iommufd)
    {
        ArgumentNullException.ThrowIfNull(iommufd);
        VfioDeviceBindIommufd argument = VfioDeviceBindIommufd.Create(iommufd.Fd.Number);
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        StepEvents.Log.DeviceBound(Name, iommufd.Fd.Number, Fd.Number, argument.OutDevid, StepEvents.Outcome(result));
        if (!result.Succeeded)
        {
            string? remedy = result.Errno switch
            {
                Errno.EBUSY => "Its group is in use through the legacy interface, or by another driver.",
                Errno.EPERM => "A device of the same IOMMU group belongs to another driver or user, "
                    + "or its interrupts are not isolated.",
                Errno.EINVAL => "It is bound already, here or elsewhere.",
                _ => null,
            };
            throw new KernelException($"Binding {Name} to the iommufd", result.Errno, remedy);
        }

        DeviceId = argument.OutDevid;
        return argument.OutDevid;
    }

    /// <summary>
    /// Attaches to an IOAS or HWPT, or replaces what it had. On failure the former attachment is intact. The errno is
    /// the caller's to judge: EINVAL means that another page table may fit.
    /// </summary>
    /// <param name="usedId">The HWPT in use (for mediated devices the IOAS).</param>
    public SyscallResult TryAttach(uint pageTableId, out uint usedId)
    {
        VfioDeviceAttachIommufdPt argument = VfioDeviceAttachIommufdPt.Create(pageTableId);
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        usedId = result.Succeeded ? argument.PtId : 0;
        StepEvents.Log.DeviceAttached(Name, pageTableId, usedId, StepEvents.Outcome(result));
        return result;
    }

    /// <summary>Detaches; DMA is blocked from then on. Success when it was not attached.</summary>
    public SyscallResult TryDetach()
    {
        VfioDeviceDetachIommufdPt argument = VfioDeviceDetachIommufdPt.Create();
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        StepEvents.Log.DeviceDetached(Name, StepEvents.Outcome(result));
        return result;
    }

    /// <summary>One region: a BAR, the configuration space, ...</summary>
    /// <exception cref="KernelException">No such region.</exception>
    public VfioRegion GetRegion(uint index)
    {
        lock (_gate)
        {
            if (!_regions.TryGetValue(index, out VfioRegion? region))
            {
                region = VfioRegion.Query(this, index);
                _regions.Add(index, region);
            }

            return region;
        }
    }

    public VfioRegion GetRegion(VfioPciRegionIndex index) => GetRegion((uint)index);

    /// <summary>How many interrupts an index has and how they behave.</summary>
    /// <exception cref="KernelException">No such index.</exception>
    public VfioIrqInfo GetIrqInfo(uint index)
    {
        VfioIrqInfo argument = VfioIrqInfo.Create(index);
        Kernel.Ioctl(Fd, ref argument).ThrowIfFailed($"Asking {Name} about interrupt index {index}");
        return argument;
    }

    /// <summary>Connects interrupts <paramref name="start"/>... of an index to eventfds; -1 disconnects one.</summary>
    /// <exception cref="KernelException">Refused; which of them are connected is then unknown, so disable the
    /// index.</exception>
    public void SetTriggers(uint index, uint start, ReadOnlySpan<int> eventfds) =>
        VfioInterrupts.SetTriggers(this, index, start, eventfds);

    /// <summary>Disconnects and disables all interrupts of an index.</summary>
    /// <exception cref="KernelException">Refused.</exception>
    public void DisableAll(uint index) => VfioInterrupts.DisableAll(this, index);

    /// <summary>Resets the device. Its migration state is then Running and its data streams are dead.</summary>
    /// <exception cref="KernelException">It has no reset, or it failed; the state of the device is then
    /// unknown.</exception>
    public void Reset()
    {
        // LIMIT: EAGAIN means that somebody else changes the device at this moment (a sysfs reset, a bus walk).
        const int Attempts = 10;
        SyscallResult result = default;
        for (int attempt = 0; attempt < Attempts; attempt++)
        {
            result = Kernel.IoctlValue(Fd.Number, VfioRequests.DeviceReset.Value, 0);
            if (result.Errno != Errno.EAGAIN)
                break;
            Thread.Sleep(TimeSpan.FromMilliseconds(10));
        }

        StepEvents.Log.DeviceWasReset(Name, StepEvents.Outcome(result));
        if (!result.Succeeded)
        {
            throw new KernelException(
                $"Resetting {Name}", result.Errno,
                result.Errno == Errno.EINVAL ? "The device has no reset that concerns it alone." : null);
        }
    }

    /// <summary>Whether a feature exists with this operation (Get or Set).</summary>
    public bool HasFeature(VfioDeviceFeatureIndex feature, VfioDeviceFeatureFlags operation) =>
        Probe(feature, operation) == Errno.Success;

    /// <summary>
    /// As <see cref="HasFeature"/>, with the reason: ENOTTY (the device has no such feature), EINVAL (it has not this
    /// operation, or for MIG_PRECOPY_INFOv2 no PRE_COPY).
    /// </summary>
    public Errno Probe(VfioDeviceFeatureIndex feature, VfioDeviceFeatureFlags operation)
    {
        VfioDeviceFeature argument = VfioDeviceFeature.Create(feature, VfioDeviceFeatureFlags.Probe | operation);
        return Kernel.Ioctl(Fd, ref argument).Errno;
    }

    /// <summary>Reads a feature.</summary>
    public SyscallResult Get<T>(ref T payload)
        where T : unmanaged, IVfioDeviceFeature<T> =>
        Kernel.Feature(Fd, VfioDeviceFeatureFlags.Get, ref payload);

    /// <summary>Writes a feature.</summary>
    public SyscallResult Set<T>(ref T payload)
        where T : unmanaged, IVfioDeviceFeature<T> =>
        Kernel.Feature(Fd, VfioDeviceFeatureFlags.Set, ref payload);

    /// <summary>Writes a feature that has no payload.</summary>
    public SyscallResult Set(VfioDeviceFeatureIndex feature)
    {
        VfioDeviceFeature argument = VfioDeviceFeature.Create(feature, VfioDeviceFeatureFlags.Set);
        return Kernel.Ioctl(Fd, ref argument);
    }

    /// <summary>Closes the descriptor, which unbinds the device. Detach it from its container before.</summary>
    public void Dispose() => Fd.Dispose();

    public override string ToString() => Name;
}
