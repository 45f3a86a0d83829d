using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>An open <c>/dev/vfio/vfio</c>.</summary>
internal sealed class VfioContainerFile(SoftKernel kernel) : SoftFile
{
    public override string Kind => "vfio-container";

    public VfioContainer Container { get; } = new(kernel);

    public override SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        // These two take a number; an address is one that means nothing.
        const ulong Nothing = ulong.MaxValue;
        return IsNumeric(request) ? IoctlValue(request, Nothing) : Container.Ioctl(request, argument);
    }

    public override SyscallResult IoctlValue(uint request, ulong argument)
    {
        if (request == VfioRequests.CheckExtension.Value)
            return SyscallResult.Ok(Container.CheckExtension(argument));
        if (request != VfioRequests.SetIommu.Value)
            return Container.Ioctl(request, []);
        Errno errno = Container.SetIommu(argument);
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    /// <summary>The groups in it keep the container.</summary>
    public override void Release()
    {
    }

    private static bool IsNumeric(uint request) =>
        request == VfioRequests.CheckExtension.Value || request == VfioRequests.SetIommu.Value;
}

/// <summary>
/// Groups that share one I/O address space, and the driver that gives it to them. The descriptor alone gives nothing: it
/// is a group that lets its owner choose a driver.
/// </summary>
/// <remarks>
/// <code>
/// empty --first group--> groups, no driver --SET_IOMMU--> driver --last group leaves--> empty, all mappings gone
/// </code>
/// FIDELITY: type1 is the only driver; the one for groups without IOMMU never has a group here.
/// </remarks>
internal sealed class VfioContainer(SoftKernel kernel)
{
    private readonly Lock _gate = new();

    /// <summary>Newest first, the order in which SET_IOMMU attaches them.</summary>
    private readonly List<VfioGroup> _groups = [];

    private volatile Type1Iommu? _iommu;

    public bool HasIommu => _iommu is not null;

    public long CheckExtension(ulong extension)
    {
        lock (_gate)
            return Type1Iommu.CheckExtension(_iommu, extension);
    }

    public Errno SetIommu(ulong type)
    {
        lock (_gate)
        {
            if (_groups.Count == 0 || _iommu is not null)
                return Errno.EINVAL;
            if (Type1Iommu.CheckExtension(null, type) <= 0)
                return Errno.ENODEV;
            if (type is not ((ulong)VfioExtension.Type1 or (ulong)VfioExtension.Type1V2))
                return Errno.EINVAL;
            var iommu = new Type1Iommu(kernel, isVersion2: type == (ulong)VfioExtension.Type1V2);
            for (int index = 0; index < _groups.Count; index++)
            {
                Errno errno = iommu.Attach(_groups[index]);
                if (errno == Errno.Success)
                    continue;
                while (--index >= 0)
                    iommu.Detach(_groups[index]);
                iommu.Release();
                return errno;
            }

            _iommu = iommu;
            return Errno.Success;
        }
    }

    /// <summary>
    /// A group joins. EPERM: somebody else owns the group; otherwise the driver's errno.
    /// </summary>
    public Errno Attach(VfioGroup group)
    {
        lock (_gate)
        {
            if (group.Iommu is not null && !group.Iommu.TryClaim(this))
                return Errno.EPERM;
            Errno errno = _iommu?.Attach(group) ?? Errno.Success;
            if (errno == Errno.Success)
                _groups.Insert(0, group);
            else
                group.Iommu?.Disclaim();
            return errno;
        }
    }

    /// <summary>A group leaves; the last one takes the driver and every mapping with it.</summary>
    public void Detach(VfioGroup group)
    {
        lock (_gate)
        {
            _iommu?.Detach(group);
            group.Iommu?.Disclaim();
            _groups.Remove(group);
            if (_groups.Count != 0)
                return;
            _iommu?.Release();
            _iommu = null;
        }
    }

    /// <summary>Every request but the two that take a number.</summary>
    public SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        const long ApiVersion = 0;
        if (request == VfioRequests.GetApiVersion.Value)
            return SyscallResult.Ok(ApiVersion);
        Errno errno = _iommu?.Ioctl(request, argument) ?? Errno.EINVAL;
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }
}
