using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>The request for devices without IOMMU.</summary>
internal sealed partial class IommufdContext
{
    private Errno GetPhysical(ref IommuIoasNoiommuGetPa command)
    {
        if (!_kernel.Caller.IsPrivileged)
            return Errno.EPERM;
        if (command.Flags != 0 || command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (command.Length == 0)
            return Errno.EINVAL;
        if (command.Iova == ulong.MaxValue)
            return Errno.EOVERFLOW;
        if (Objects.Find<Ioas>(command.IoasId) is not Ioas ioas || ioas.FindArea(command.Iova) is not IoasArea area)
            return Errno.ENOENT;
        if (area.Pages.IsHidden)
            return Errno.EINVAL;
        // ORDER: an area is kept in the first table of its space, and only that one is asked.
        if (ioas.Tables is not [{ Table: NoIommuPageTable table }, ..]
            || !table.TryFind(command.Iova, out ulong physical, out _))
            return Errno.EOPNOTSUPP;
        command.OutPhys = physical;
        command.Length = Contiguous(table, area, command.Iova, physical, command.Length);
        return Errno.Success;
    }

    /// <summary>Grown a page at a time, as long as the pages are neighbours too and somebody asks for more.</summary>
    private static ulong Contiguous(IoPageTable table, IoasArea area, ulong iova, ulong physical, ulong most)
    {
        ulong length = Math.Min(GuestPage.Size - (iova % GuestPage.Size), unchecked(area.Last - iova + 1));
        while (length < most && area.Last - iova >= GuestPage.Size
            && table.TryFind(iova + GuestPage.Size, out ulong next, out _) && next == physical + GuestPage.Size)
        {
            iova += GuestPage.Size;
            physical = next;
            length += GuestPage.Size;
        }

        return Math.Min(length, most);
    }
}
