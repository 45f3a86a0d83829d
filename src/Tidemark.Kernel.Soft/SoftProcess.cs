using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft;

/// <summary>
/// A process as the kernel sees it when memory is pinned: whose it is, what it may, and what is charged to it.
/// </summary>
/// <remarks>
/// FIDELITY: all processes of a soft kernel share one address space and one table of descriptors, and none ends.
/// </remarks>
internal sealed class SoftProcess
{
    /// <param name="limit">RLIMIT_MEMLOCK in bytes; <see cref="ulong.MaxValue"/>: none.</param>
    /// <param name="privileged">Has every capability, of which CAP_IPC_LOCK, CAP_SYS_RESOURCE and CAP_SYS_RAWIO
    /// count here.</param>
    public SoftProcess(SoftUser user, ulong limit, bool privileged)
    {
        User = user;
        LimitPages = limit / GuestPage.Size;
        IsPrivileged = privileged;
    }

    public SoftUser User { get; }

    /// <summary>Whole pages that the process may have charged.</summary>
    public ulong LimitPages { get; }

    public bool IsPrivileged { get; }

    /// <summary>VmLck of /proc/PID/status in pages: what is charged to the process.</summary>
    public ChargedPages Locked { get; } = new();

    /// <summary>VmPin in pages: what iommufd has pinned for the process, whoever is charged.</summary>
    public ChargedPages Pinned { get; } = new();
}

/// <summary>Whoever owns processes: iommufd charges a user's pinned memory to all of them together.</summary>
internal sealed class SoftUser
{
    public ChargedPages Locked { get; } = new();
}

/// <summary>A number of pages that is charged to somebody. A leaf in the order of locks.</summary>
internal sealed class ChargedPages
{
    private readonly Lock _gate = new();
    private ulong _pages;

    public ulong Count
    {
        get
        {
            lock (_gate)
                return _pages;
        }
    }

    /// <summary>Charges all, or nothing (ENOMEM): there would then be more than the limit.</summary>
    public Errno TryAdd(ulong pages, ulong limit)
    {
        lock (_gate)
        {
            if (pages > limit || _pages > limit - pages)
                return Errno.ENOMEM;
            _pages += pages;
            return Errno.Success;
        }
    }

    /// <summary>Charges without a limit.</summary>
    public void Add(ulong pages)
    {
        lock (_gate)
            _pages += pages;
    }

    public void Remove(ulong pages)
    {
        lock (_gate)
            _pages -= pages;
    }
}
