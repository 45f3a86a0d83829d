using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>The requests on an IOAS. The order of checks is the kernel's; when two faults meet, the first
/// answers.</summary>
internal sealed partial class IommufdContext
{
    private const IommuIoasMapFlags KnownMapFlags =
        IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Writeable | IommuIoasMapFlags.Readable;

    private const IommuIoasMapFlags MapPermissions = IommuIoasMapFlags.Writeable | IommuIoasMapFlags.Readable;

    private Errno IovaRanges(ref IommuIoasIovaRanges command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
            return Errno.ENOENT;
        List<(ulong First, ulong Last)> ranges = ioas.UsableRanges();
        uint room = command.NumIovas;
        for (int index = 0; index < ranges.Count && index < room; index++)
        {
            var range = new IommuIovaRange { Start = ranges[index].First, Last = ranges[index].Last };
            ulong address = unchecked(command.AllowedIovas + (ulong)index * 16);
            if (!User.TryCopyOut(address, StructBytes.OfReadOnly(in range)))
                return Errno.EFAULT;
        }

        command.NumIovas = (uint)ranges.Count;
        command.OutIovaAlignment = ioas.Alignment;
        return ranges.Count > room ? Errno.EMSGSIZE : Errno.Success;
    }

    private Errno AllowIovas(ref IommuIoasAllowIovas command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
            return Errno.ENOENT;
        var allowed = new List<(ulong First, ulong Last)>();
        for (uint index = 0; index < command.NumIovas; index++)
        {
            IommuIovaRange range = default;
            ulong address = unchecked(command.AllowedIovas + (ulong)index * 16);
            if (!User.TryCopyIn(address, StructBytes.Of(ref range)))
                return Errno.EFAULT;
            if (range.Start >= range.Last)
                return Errno.EINVAL;
            // Kept sorted: the list is the caller's to make long.
            int at = allowed.BinarySearch((range.Start, range.Last));
            at = at < 0 ? ~at : at;
            if ((at < allowed.Count && allowed[at].First <= range.Last)
                || (at > 0 && allowed[at - 1].Last >= range.Start))
            {
                return Errno.EINVAL;
            }

            allowed.Insert(at, (range.Start, range.Last));
        }

        return ioas.TryAllow(allowed);
    }

    private Errno Map(ref IommuIoasMap command)
    {
        if ((command.Flags & ~KnownMapFlags) != 0 || command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (command.Iova == ulong.MaxValue || command.Length == ulong.MaxValue)
            return Errno.EOVERFLOW;
        if ((command.Flags & MapPermissions) == 0)
            return Errno.EINVAL;
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
            return Errno.ENOENT;
        if (command.UserVa > ulong.MaxValue - command.Length)
            return Errno.EOVERFLOW;
        if (command.Length == 0 || command.Length > ulong.MaxValue - GuestPage.Size)
            return Errno.EINVAL;
        bool writable = (command.Flags & IommuIoasMapFlags.Writeable) != 0;
        var pages = PageSet.OfUser(User, command.UserVa, writable, NewCharge());
        return ioas.TryMap([new PagePiece(pages, 0, command.Length)], command.Flags, ref command.Iova);
    }

    private Errno MapFile(ref IommuIoasMapFile command)
    {
        if ((command.Flags & ~KnownMapFlags) != 0)
            return Errno.EOPNOTSUPP;
        if (command.Iova == ulong.MaxValue || command.Length == ulong.MaxValue)
            return Errno.EOVERFLOW;
        if ((command.Flags & MapPermissions) == 0)
            return Errno.EINVAL;
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
            return Errno.ENOENT;
        if (command.Length == 0)
            return Errno.EINVAL;
        if (command.Start > ulong.MaxValue - (command.Length - 1))
            return Errno.EOVERFLOW;
        bool writable = (command.Flags & IommuIoasMapFlags.Writeable) != 0;
        Errno errno = TryFindPages(command, writable, out PageSet? pages);
        if (errno != Errno.Success)
            return errno;
        errno = ioas.TryMap([new PagePiece(pages!, 0, command.Length)], command.Flags, ref command.Iova);
        if (errno != Errno.Success)
            pages!.Abandon();
        return errno;
    }

    private Errno TryFindPages(in IommuIoasMapFile command, bool writable, out PageSet? pages)
    {
        pages = null;
        if (_kernel.TryFindDmaBuf(command.Fd, out DmaBuf? lent))
        {
            Errno errno = PageSet.TryOfDmaBuf(this, User, lent, command.Start, command.Length, writable, out pages);
            if (errno != Errno.Success)
                lent.Release();
            return errno;
        }

        if (!_kernel.TryFindFile(command.Fd, out MemoryObject? file))
            return Errno.EBADF;
        pages = PageSet.OfFile(User, file, command.Start, writable, NewCharge());
        return Errno.Success;
    }

    /// <summary>A dma-buf was revoked: its mappings stay, and no page table shows them.</summary>
    public void Hide(PageSet pages)
    {
        lock (Gate)
        {
            if (pages.IsHidden)
                return;
            pages.Hide();
            foreach (Ioas ioas in Objects.All.OfType<Ioas>())
                ioas.Hide(pages);
        }
    }

    private Errno Copy(ref IommuIoasCopy command)
    {
        if ((command.Flags & ~KnownMapFlags) != 0)
            return Errno.EOPNOTSUPP;
        if (command.Length == ulong.MaxValue || command.SrcIova == ulong.MaxValue || command.DstIova == ulong.MaxValue)
            return Errno.EOVERFLOW;
        if ((command.Flags & MapPermissions) == 0)
            return Errno.EINVAL;
        if (Objects.Find<Ioas>(command.SrcIoasId) is not Ioas source)
            return Errno.ENOENT;
        if (command.Length == 0)
            return Errno.EINVAL;
        if (command.SrcIova > ulong.MaxValue - (command.Length - 1))
            return Errno.EOVERFLOW;
        var pieces = new List<PagePiece>();
        Errno errno = source.TryCollect(command.SrcIova, command.SrcIova + (command.Length - 1), pieces);
        if (errno != Errno.Success)
            return errno;
        if (Objects.Find<Ioas>(command.DstIoasId) is not Ioas destination)
            return Errno.ENOENT;
        return destination.TryMap(pieces, command.Flags, ref command.DstIova);
    }

    private Errno Unmap(ref IommuIoasUnmap command)
    {
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas)
            return Errno.ENOENT;
        ulong unmapped;
        if (command.Iova == 0 && command.Length == ulong.MaxValue)
        {
            Errno errno = ioas.TryUnmapAll(out unmapped);
            if (errno != Errno.Success)
                return errno;
        }
        else
        {
            if (command.Iova == ulong.MaxValue || command.Length == ulong.MaxValue)
                return Errno.EOVERFLOW;
            if (command.Length == 0)
                return Errno.EINVAL;
            if (command.Iova > ulong.MaxValue - (command.Length - 1))
                return Errno.EOVERFLOW;
            Errno errno = ioas.TryUnmap(command.Iova, command.Iova + (command.Length - 1), out unmapped);
            if (errno != Errno.Success)
                return errno;
        }

        command.Length = unmapped;
        return Errno.Success;
    }
}
