using Tidemark.Abi;

namespace Tidemark.Iommu;

/// <summary>What a user can do when the kernel refuses to map memory for devices, whichever interface was asked.</summary>
public static class MapRemedy
{
    /// <summary>One or two sentences, or null when the errno says it all.</summary>
    public static string? Find(Errno errno) => errno switch
    {
        Errno.EEXIST => "The range is already mapped.",
        Errno.EFAULT => "The memory can not be pinned; a device's own region (a BAR) is one such case.",
        Errno.EINVAL => "The attached devices can not use these IOVAs, or nothing is attached.",
        // The kernel charges the user's other machines to the same limit, so no number can be told here.
        Errno.ENOMEM => "The limit of locked memory (RLIMIT_MEMLOCK; ulimit -l tells it in KiB) is too low for this "
            + "and what the user has pinned already, or no memory is left. Raise the limit above the memory of all "
            + "the user's machines (ulimit -l unlimited, LimitMEMLOCK=infinity in a unit of systemd), or grant "
            + "CAP_IPC_LOCK.",
        Errno.ENOSPC => "Too many mappings: raise vfio_iommu_type1.dma_entry_limit.",
        _ => null,
    };
}
