using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>The requests on hardware page tables.</summary>
internal sealed partial class IommufdContext
{
    private const IommuHwptAllocFlags KnownHwptFlags = IommuHwptAllocFlags.NestParent
        | IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.FaultIdValid | IommuHwptAllocFlags.Pasid;

    private Errno AllocateHwpt(ref IommuHwptAlloc command)
    {
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if ((command.DataType == IommuHwptDataType.None) != (command.DataLen == 0))
            return Errno.EINVAL;
        if (Objects.Find<BoundDevice>(command.DevId) is not BoundDevice device)
            return Errno.ENOENT;
        switch (Objects.Find(command.PtId))
        {
            case Ioas ioas:
                return AllocatePaging(ioas, device, ref command);
            case Hwpt parent:
                return AllocateNested(parent, device, ref command);
            case Viommu viommu:
                return AllocateNested(viommu, device, ref command);
            default:
                return Errno.EINVAL;
        }
    }

    private Errno AllocatePaging(Ioas ioas, BoundDevice device, ref IommuHwptAlloc command)
    {
        IommuDriver driver = device.Port.Driver;
        if (!driver.TakesFlags && (command.Flags != 0 || command.DataLen != 0))
            return Errno.EOPNOTSUPP;
        if ((command.Flags & ~KnownHwptFlags) != 0)
            return Errno.EOPNOTSUPP;
        if ((command.Flags & IommuHwptAllocFlags.DirtyTracking) != 0 && !driver.TracksDirty)
            return Errno.EOPNOTSUPP;
        const IommuHwptAllocFlags FaultAndParent = IommuHwptAllocFlags.FaultIdValid | IommuHwptAllocFlags.NestParent;
        if ((command.Flags & FaultAndParent) == FaultAndParent)
            return Errno.EOPNOTSUPP;
        IommuHwptAllocFlags flags = command.Flags & ~IommuHwptAllocFlags.FaultIdValid;
        PageTableFormat? format;
        Errno errno = device.TestDevice is not null && command.DataLen != 0
            ? ChooseByTestData(driver, flags, ref command, out format)
            : driver.Choose(flags, hasData: command.DataLen != 0, out format);
        Hwpt? hwpt = null;
        if (errno == Errno.Success)
            errno = TryCreateHwpt(ioas, driver, format!, automatic: false, out hwpt);
        if (errno != Errno.Success)
            return errno;
        hwpt!.PasidCompatible = (flags & IommuHwptAllocFlags.Pasid) != 0;
        hwpt.IsNestParent = (flags & IommuHwptAllocFlags.NestParent) != 0;
        return Finish(hwpt, ref command);
    }

    private Errno SetDirtyTracking(ref IommuHwptSetDirtyTracking command)
    {
        if ((command.Flags & ~IommuHwptSetDirtyTrackingFlags.Enable) != 0)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<Hwpt>(command.HwptId) is not Hwpt hwpt)
            return Errno.ENOENT;
        if (!hwpt.DirtyTracking)
            return Errno.EOPNOTSUPP;
        hwpt.SetTracking((command.Flags & IommuHwptSetDirtyTrackingFlags.Enable) != 0);
        return Errno.Success;
    }

    private Errno GetDirtyBitmap(ref IommuHwptGetDirtyBitmap command)
    {
        if ((command.Flags & ~IommuHwptGetDirtyBitmapFlags.NoClear) != 0 || command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<Hwpt>(command.HwptId) is not Hwpt hwpt)
            return Errno.ENOENT;
        if (command.Length == 0)
            return Errno.EINVAL;
        if (command.Iova > ulong.MaxValue - (command.Length - 1))
            return Errno.EOVERFLOW;
        ulong last = command.Iova + (command.Length - 1);
        ulong ends = command.Iova | unchecked(command.Iova + command.Length);
        if ((ends & (hwpt.Ioas.Alignment - 1)) != 0)
            return Errno.EINVAL;
        if (command.PageSize == 0)
            return Errno.EINVAL;
        if ((ends & (command.PageSize - 1)) != 0)
            return Errno.EINVAL;
        if (!hwpt.DirtyTracking)
            return Errno.EOPNOTSUPP;
        Span<byte> buffer = stackalloc byte[DirtyBitmapWriter.BufferBytes];
        buffer.Clear();
        var writer = new DirtyBitmapWriter(
            User, buffer, command.Data, command.Iova, command.Length, command.PageSize);
        bool clear = (command.Flags & IommuHwptGetDirtyBitmapFlags.NoClear) == 0;
        hwpt.ReadDirty(command.Iova, last, clear, ref writer);
        writer.Flush();
        // What went wrong on the way is not said; the interface has no place for it.
        return Errno.Success;
    }

    private Errno Invalidate(ref IommuHwptInvalidate command)
    {
        const uint LargestEntry = 4096;
        const uint MostEntries = 1 << 19;
        uint entries = command.EntryNum;
        command.EntryNum = 0;
        if (command.Reserved != 0)
            return Errno.EOPNOTSUPP;
        if (entries != 0 && (command.DataUptr == 0 || command.EntryLen is 0 or > LargestEntry || entries > MostEntries))
            return Errno.EINVAL;
        ulong data = command.DataUptr;
        uint length = command.EntryLen;
        NestedHwpt.EntryReader read = (index, entry) => User.TryCopyIn(unchecked(data + (ulong)index * length), entry);
        return Objects.Find(command.HwptId) switch
        {
            NestedHwpt nested => nested.Invalidate(command.DataType, entries, length, read, out command.EntryNum),
            Viommu viommu => viommu.Invalidate(command.DataType, entries, length, read, out command.EntryNum),
            null => Errno.ENOENT,
            _ => Errno.EINVAL,
        };
    }
}
