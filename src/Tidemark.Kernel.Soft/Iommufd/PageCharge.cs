using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>Whom iommufd charges for pinned pages.</summary>
internal enum PageAccount
{
    /// <summary>Nobody: the caller of MAP had CAP_IPC_LOCK.</summary>
    None,

    /// <summary>The user of the process (RLIMIT_MODE 0).</summary>
    User,

    /// <summary>The process (RLIMIT_MODE 1).</summary>
    Process,
}

/// <summary>
/// The pages of a page set that are charged, and to whom. Guarded by the context's lock.
/// </summary>
/// <remarks>
/// What is pinned changes first; then the charge follows in one step, which can fail only where it grows.
/// </remarks>
internal sealed class PageCharge(SoftProcess process, PageAccount account)
{
    private readonly PageAccount _account = account;
    private SoftProcess _process = process;

    /// <summary>Pages charged now.</summary>
    public ulong Pages { get; private set; }

    public PageAccount Account => _account;

    /// <summary>As <paramref name="caller"/> maps in a context of this mode.</summary>
    public static PageCharge Of(SoftProcess caller, bool chargesProcess) => new(
        caller, caller.IsPrivileged ? PageAccount.None : chargesProcess ? PageAccount.Process : PageAccount.User);

    /// <summary>Makes the charge this many pages. ENOMEM: the limit; the charge is then as before.</summary>
    public Errno TrySet(ulong pages)
    {
        if (pages > Pages)
        {
            Errno errno = TryAdd(_process, _account, pages - Pages);
            if (errno != Errno.Success)
                return errno;
        }
        else if (pages < Pages)
        {
            Remove(_process, _account, Pages - pages);
        }

        Pages = pages;
        return Errno.Success;
    }

    /// <summary>Whether the owner would be another one. What nobody is charged for stays pinned for whom it was.</summary>
    public bool MovesTo(SoftProcess caller) => _account != PageAccount.None && !ReferenceEquals(_process, caller);

    /// <summary>The owner is another one from here on, who was charged already (see <see cref="TryAdd"/>).</summary>
    public void MoveTo(SoftProcess caller)
    {
        if (!MovesTo(caller))
            return;
        Remove(_process, _account, Pages);
        _process = caller;
    }

    /// <summary>Charges pages to a process or its user. ENOMEM: the process's limit; nothing is charged then.</summary>
    public static Errno TryAdd(SoftProcess process, PageAccount account, ulong pages)
    {
        Errno errno = account switch
        {
            PageAccount.User => process.User.Locked.TryAdd(pages, process.LimitPages),
            PageAccount.Process => process.Locked.TryAdd(pages, process.LimitPages),
            _ => Errno.Success,
        };
        if (errno == Errno.Success)
            process.Pinned.Add(pages);
        return errno;
    }

    public static void Remove(SoftProcess process, PageAccount account, ulong pages)
    {
        if (account == PageAccount.User)
            process.User.Locked.Remove(pages);
        else if (account == PageAccount.Process)
            process.Locked.Remove(pages);
        process.Pinned.Remove(pages);
    }
}
