using System.Collections.Concurrent;

namespace Tidemark.Kernel;

/// <summary>What a descriptor is: the same request number means different things on different ones.</summary>
internal enum TracedKind
{
    Other,
    Iommufd,
    VfioContainer,
    VfioGroup,
    VfioDevice,
    VfioMigrationData,
    UserfaultfdDevice,
    Userfaultfd,
    Pagemap,

    /// <summary>Came from another process: an iommufd or a device.</summary>
    Received,
}

/// <summary>What each descriptor of a traced kernel is, learned from the calls that made it.</summary>
internal sealed class TraceDescriptors
{
    private readonly ConcurrentDictionary<int, TracedKind> _kinds = new();

    internal TracedKind this[int fd] => _kinds.GetValueOrDefault(fd);

    internal void Opened(SyscallResult result, string path) => Made(result, KindOf(path));

    internal void Made(SyscallResult result, TracedKind kind)
    {
        if (result.Succeeded)
            _kinds[(int)result.Value] = kind;
    }

    internal void Duplicated(SyscallResult result, int fd) => Made(result, this[fd]);

    internal void Closed(int fd) => _kinds.TryRemove(fd, out _);

    private static TracedKind KindOf(string path)
    {
        if (path.StartsWith("/dev/vfio/devices/", StringComparison.Ordinal))
            return TracedKind.VfioDevice;
        if (path.StartsWith("/proc/", StringComparison.Ordinal) && path.EndsWith("/pagemap", StringComparison.Ordinal))
            return TracedKind.Pagemap;
        return path switch
        {
            "/dev/iommu" => TracedKind.Iommufd,
            "/dev/vfio/vfio" => TracedKind.VfioContainer,
            "/dev/userfaultfd" => TracedKind.UserfaultfdDevice,
            _ => path.StartsWith("/dev/vfio/", StringComparison.Ordinal) ? TracedKind.VfioGroup : TracedKind.Other,
        };
    }
}
