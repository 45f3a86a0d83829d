using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>vIOMMUs and what hangs on them. Only the test domain's driver has any.</summary>
internal sealed partial class IommufdContext
{
    private const int ViommuDataShortest = 8;
    private const int ViommuDataLongest = 24;

    /// <summary>One more who needs the context.</summary>
    public void Hold()
    {
        lock (Gate)
            _references++;
    }

    /// <summary>What a mapping of the descriptor shows: exactly a vIOMMU's page. ENXIO: something else.</summary>
    public SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out MemoryObject? page, out IMappingOwner? owner)
    {
        const MemoryProtection Execute = (MemoryProtection)4;
        (page, owner) = (null, null);
        if ((protection & Execute) != 0)
            return SyscallResult.Fail(Errno.EPERM);
        lock (Gate)
        {
            Viommu? viommu = Objects.All.OfType<Viommu>().FirstOrDefault(
                candidate => candidate.Page is not null && candidate.PageOffset == offset);
            if (viommu is null || byteLength is <= Viommu.PageBytes - GuestPage.Size or > Viommu.PageBytes)
                return SyscallResult.Fail(Errno.ENXIO);
            (page, owner) = (viommu.Page, viommu);
            viommu.AddMapping();
            return SyscallResult.Ok();
        }
    }

    private Errno AllocateViommu(ref IommuViommuAlloc command)
    {
        if (command.Flags != 0 || command.Type == IommuViommuType.Default)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<BoundDevice>(command.DevId) is not BoundDevice device)
            return Errno.ENOENT;
        // The soft units' drivers have no virtual IOMMUs.
        if (device.TestDevice is null || command.Type != Viommu.TestType)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<Hwpt>(command.HwptId) is not Hwpt parent)
            return Errno.ENOENT;
        if (!parent.IsNestParent)
            return Errno.EINVAL;
        var viommu = new Viommu(this, parent);
        Errno errno = command.DataLen == 0 ? Errno.Success : LoopDataBack(viommu, in command);
        if (errno != Errno.Success)
        {
            viommu.Destroy();
            return errno;
        }

        Objects.Add(viommu);
        command.OutViommuId = viommu.Id;
        return Errno.Success;
    }

    /// <summary>The test domain's data: a number that comes back, and is the first of the page.</summary>
    private Errno LoopDataBack(Viommu viommu, in IommuViommuAlloc command)
    {
        if (command.DataLen is < ViommuDataShortest or > ViommuDataLongest)
            return Errno.EINVAL;
        Span<byte> data = stackalloc byte[ViommuDataLongest];
        data.Clear();
        if (!User.TryCopyIn(command.DataUptr, data[..(int)command.DataLen]))
            return Errno.EFAULT;
        if (_kernel.TryCreateMemory(Viommu.PageBytes) is not MemoryObject page)
            return Errno.ENOMEM;
        viommu.Page = page;
        viommu.PageOffset = FindPageOffset();
        page.TryWrite(0, data[..4]);
        data[..4].CopyTo(data[4..]);
        BinaryPrimitives.WriteUInt64LittleEndian(data[8..], viommu.PageOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(data[16..], Viommu.PageBytes);
        return User.TryCopyOut(command.DataUptr, data[..(int)command.DataLen]) ? Errno.Success : Errno.EFAULT;
    }

    /// <summary>The lowest that no other page lies at. The first page stays free, so that 0 is no page's offset.</summary>
    private ulong FindPageOffset()
    {
        ulong offset = GuestPage.Size;
        foreach (ulong taken in Objects.All.OfType<Viommu>().Where(other => other.Page is not null)
            .Select(other => other.PageOffset).Order())
        {
            if (taken != offset)
                break;
            offset += Viommu.PageBytes;
        }

        return offset;
    }

    private Errno AllocateVdevice(ref IommuVdeviceAlloc command)
    {
        if (Objects.Find<Viommu>(command.ViommuId) is not Viommu viommu
            || Objects.Find<BoundDevice>(command.DevId) is not BoundDevice device)
        {
            return Errno.ENOENT;
        }

        // Behind another IOMMU than the one that is virtual here.
        if (device.TestDevice is null)
            return Errno.EINVAL;
        if (device.Vdevice is not null)
            return Errno.EEXIST;
        var vdevice = new Vdevice(viommu, device, command.VirtId);
        Errno errno = viommu.TryAdd(vdevice);
        if (errno != Errno.Success)
            return errno;
        device.Vdevice = vdevice;
        Objects.Add(vdevice);
        command.OutVdeviceId = vdevice.Id;
        return Errno.Success;
    }

    private Errno AllocateEventQueue(ref IommuVeventqAlloc command)
    {
        const uint Deepest = 1 << 19;
        if (command.Flags != 0 || command.Reserved != 0 || command.Type == IommuVeventqType.Default)
            return Errno.EOPNOTSUPP;
        if (command.VeventqDepth is 0 or > Deepest)
            return Errno.EINVAL;
        if (Objects.Find<Viommu>(command.ViommuId) is not Viommu viommu)
            return Errno.ENOENT;
        IommuVeventqType type = command.Type;
        if (viommu.EventQueues.Exists(queue => queue.Type == type))
            return Errno.EEXIST;
        var created = new EventQueue(this, viommu, type, command.VeventqDepth);
        Objects.Add(created);
        // Its descriptor holds the queue and the context.
        created.Users++;
        _references++;
        command.OutVeventqId = created.Id;
        command.OutVeventqFd = (uint)_kernel.Install(new EventQueueFile(created));
        return Errno.Success;
    }

    private Errno AllocateHardwareQueue(ref IommuHwQueueAlloc command)
    {
        if (command.Flags != 0 || command.Type == IommuHwQueueType.Default)
            return Errno.EOPNOTSUPP;
        if (command.Length == 0)
            return Errno.EINVAL;
        if (command.NestingParentIova > ulong.MaxValue - (command.Length - 1))
            return Errno.EOVERFLOW;
        if (Objects.Find<Viommu>(command.ViommuId) is not Viommu viommu)
            return Errno.ENOENT;
        if (command.Type != Viommu.TestQueue)
            return Errno.EOPNOTSUPP;
        var access = new IoasAccess(this, owner: null, pinsPages: true, holdsContext: false);
        var queue = new HardwareQueue(viommu, access);
        // ORDER: the queue has its id before its access, which takes one too, has another.
        Objects.Add(queue);
        Objects.Add(access);
        Errno errno = access.Attach(viommu.Parent.Ioas.Id);
        AccessPin? pin = null;
        // Whole pages, wherever in them the queue lies.
        ulong inPage = command.NestingParentIova % GuestPage.Size;
        ulong pages = (inPage + command.Length + (GuestPage.Size - 1)) & ~((ulong)GuestPage.Size - 1);
        if (errno == Errno.Success)
            errno = access.TryPin(command.NestingParentIova - inPage, pages, write: false, out pin);
        if (errno == Errno.Success && !pin!.IsContiguous)
            errno = Errno.EFAULT;
        if (errno == Errno.Success)
            errno = viommu.TryAdd(queue, command.Index);
        if (errno != Errno.Success)
        {
            access.Close();
            Objects.Remove(queue);
            return errno;
        }

        command.OutHwQueueId = queue.Id;
        return Errno.Success;
    }

    private Errno AllocateNested(Viommu viommu, BoundDevice device, ref IommuHwptAlloc command)
    {
        if (device.TestDevice is null)
            return Errno.EINVAL;
        const IommuHwptAllocFlags Known = IommuHwptAllocFlags.FaultIdValid | IommuHwptAllocFlags.Pasid;
        if ((command.Flags & ~Known) != 0 || command.DataLen == 0)
            return Errno.EOPNOTSUPP;
        Errno errno = ReadTestData(ref command, out uint iotlb, out _);
        if (errno != Errno.Success)
            return errno;
        var nested = new NestedHwpt(viommu, iotlb)
        {
            PasidCompatible = (command.Flags & IommuHwptAllocFlags.Pasid) != 0,
        };
        Objects.Add(nested);
        return Finish(nested, ref command);
    }

    /// <summary>An event that a device's hardware has for the guest. ENOENT: no guest knows the device; EOPNOTSUPP:
    /// nobody wants it.</summary>
    private Errno TriggerEvent(uint deviceId)
    {
        if (Objects.Find<BoundDevice>(deviceId)?.TestDevice is not { Viommu: Viommu viommu, Number: not 0 } device)
            return Errno.ENOENT;
        if (viommu.EventQueues.Find(queue => queue.Type == Viommu.TestEvents) is not EventQueue queue)
            return Errno.EOPNOTSUPP;
        queue.Report(unchecked((uint)device.Number));
        return Errno.Success;
    }
}
