using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>Nested tables, fault queues, and what both end with.</summary>
internal sealed partial class IommufdContext
{
    private const int TestDataShortest = 4;
    private const int TestDataLongest = 8;

    private Errno AllocateNested(Hwpt parent, BoundDevice device, ref IommuHwptAlloc command)
    {
        const IommuHwptAllocFlags Known = IommuHwptAllocFlags.FaultIdValid | IommuHwptAllocFlags.Pasid;
        // The soft units have no nested translation, and that is asked before what the parent is.
        if ((command.Flags & ~Known) != 0 || command.DataLen == 0 || device.TestDevice is null)
            return Errno.EOPNOTSUPP;
        if (parent.IsAutomatic || !parent.IsNestParent || parent.Driver.GetType() != device.Port.Driver.GetType())
            return Errno.EINVAL;
        Errno errno = ReadTestData(ref command, out uint iotlb, out _);
        if (errno != Errno.Success)
            return errno;
        var nested = new NestedHwpt(parent, iotlb)
        {
            PasidCompatible = (command.Flags & IommuHwptAllocFlags.Pasid) != 0,
        };
        Objects.Add(nested);
        return Finish(nested, ref command);
    }

    /// <summary>The test domain takes data for a paging table, which chooses the sizes of its leaves.</summary>
    private Errno ChooseByTestData(
        IommuDriver driver, IommuHwptAllocFlags flags, ref IommuHwptAlloc command, out PageTableFormat? format)
    {
        const uint Default = 0;
        const uint Huge = 1;
        Errno errno = driver.Choose(flags, hasData: false, out format);
        if (errno != Errno.Success)
            return errno;
        errno = ReadTestData(ref command, out _, out uint kind);
        if (errno != Errno.Success)
            return errno;
        if (kind > Huge)
            return Errno.EOPNOTSUPP;
        if (kind != Default)
            format = PageTableFormat.TestDomain((flags & IommuHwptAllocFlags.DirtyTracking) != 0, hugePages: true);
        return Errno.Success;
    }

    private Errno ReadTestData(ref IommuHwptAlloc command, out uint iotlb, out uint kind)
    {
        (iotlb, kind) = (0, 0);
        if (command.DataType != NestedHwpt.TestData)
            return Errno.EOPNOTSUPP;
        if (command.DataLen is < TestDataShortest or > TestDataLongest)
            return Errno.EINVAL;
        Span<byte> data = stackalloc byte[TestDataLongest];
        data.Clear();
        if (!User.TryCopyIn(command.DataUptr, data[..(int)command.DataLen]))
            return Errno.EFAULT;
        iotlb = BinaryPrimitives.ReadUInt32LittleEndian(data);
        kind = BinaryPrimitives.ReadUInt32LittleEndian(data[TestDataShortest..]);
        return Errno.Success;
    }

    /// <summary>A new table gets its fault queue and is told, or goes again.</summary>
    private Errno Finish(AttachableTable table, ref IommuHwptAlloc command)
    {
        if ((command.Flags & IommuHwptAllocFlags.FaultIdValid) != 0)
        {
            if (Objects.Find<FaultQueue>(command.FaultId) is not FaultQueue queue)
            {
                Objects.TryDestroy(table.Id);
                return Errno.ENOENT;
            }

            table.DeliverFaultsTo(queue);
        }

        command.OutHwptId = table.Id;
        return Errno.Success;
    }

    private Errno AllocateFaultQueue(ref IommuFaultAlloc command)
    {
        if (command.Flags != 0)
            return Errno.EOPNOTSUPP;
        var queue = new FaultQueue(this);
        Objects.Add(queue);
        // Its descriptor holds the queue and the context.
        queue.Users++;
        _references++;
        command.OutFaultId = queue.Id;
        command.OutFaultFd = (uint)_kernel.Install(new FaultQueueFile(queue));
        return Errno.Success;
    }
}
