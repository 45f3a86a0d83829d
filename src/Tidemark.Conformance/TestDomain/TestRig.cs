using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.TestDomain;

/// <summary>
/// IOMMU_TEST_CMD for a case: devices without hardware, accesses, and looks into page tables. Ends the case as not
/// applicable where the kernel does not have it.
/// </summary>
internal sealed class TestRig
{
    /// <summary>What its page tables can translate, and the smallest page of them.</summary>
    public const ulong First = 0x100_0000;
    public const ulong Last = 0x7FFF_FFFF;
    public const ulong SmallPage = 2048;

    /// <summary>The types of its data.</summary>
    public const IommuHwInfoType HwInfo = (IommuHwInfoType)0xFEED_BEEF;
    public const uint HwInfoValue = 0xDEAD_BEEF;
    public const IommuHwptDataType NestedData = (IommuHwptDataType)0xDEAD;
    public const IommuHwptInvalidateDataType Invalidation = (IommuHwptInvalidateDataType)0xDEAD_BEEF;
    public const uint IotlbValue = 0xBAD_BEEF;
    public const IommuViommuType Viommu = (IommuViommuType)0xDEAD_BEEF;
    public const IommuVeventqType Events = (IommuVeventqType)0xBEEF_BEEF;
    public const IommuHwQueueType Queue = (IommuHwQueueType)0xDEAD_BEEF;

    /// <summary>What a device caches at first.</summary>
    public const uint CacheValue = 0xBA_DDAD;

    private readonly CaseRun _run;

    public TestRig(CaseRun run)
    {
        if (!run.HasTestDomain)
            throw CaseRun.NotApplicable("Needs a kernel built with CONFIG_IOMMUFD_TEST, whose test domain is its own.");
        _run = run;
    }

    /// <summary>A call that may be refused.</summary>
    public Errno Call(ref TestCommand command) => _run.Kernel.Ioctl(_run.Iommufd, ref command).Errno;

    public Errno TryCreateDevice(uint ioasOrHwpt, TestDeviceFlags flags, out TestDevice device)
    {
        TestCommand command = TestCommand.Create(TestOperation.CreateDeviceWithFlags, ioasOrHwpt);
        command.Word1 = TestCommand.Pair(0, (uint)flags);
        Errno errno = Call(ref command);
        device = new TestDevice(command.First, command.Third, command.Second);
        return errno;
    }

    public TestDevice CreateDevice(uint ioasOrHwpt = 0, TestDeviceFlags flags = TestDeviceFlags.None)
    {
        _run.Answers(
            TryCreateDevice(ioasOrHwpt == 0 ? _run.Ioas : ioasOrHwpt, flags, out TestDevice device),
            Errno.Success, "making a test device");
        return device;
    }

    public Errno TryReplace(TestDevice device, uint target, out uint hwpt)
    {
        TestCommand command = TestCommand.Create(TestOperation.ReplaceDevice, device.Id);
        command.Word0 = target;
        Errno errno = Call(ref command);
        hwpt = command.First;
        return errno;
    }

    public uint Replace(TestDevice device, uint target)
    {
        _run.Answers(TryReplace(device, target, out uint hwpt), Errno.Success, "moving a test device");
        return hwpt;
    }

    public void DestroyDevice(TestDevice device) =>
        _run.Answers(_run.Destroy(device.Id), Errno.Success, "destroying a test device");

    public Errno AddReserved(uint ioas, ulong start, ulong byteLength)
    {
        TestCommand command = TestCommand.Create(TestOperation.AddReserved, ioas);
        (command.Word0, command.Word1) = (start, byteLength);
        return Call(ref command);
    }

    /// <summary>EINVAL: the table shows something else there than what lies at the address.</summary>
    public Errno CheckMap(uint hwpt, ulong iova, ulong byteLength, ulong address)
    {
        TestCommand command = TestCommand.Create(TestOperation.CheckMap, hwpt);
        (command.Word0, command.Word1, command.Word2) = (iova, byteLength, address);
        return Call(ref command);
    }

    public void Shows(uint hwpt, ulong iova, ulong byteLength, ulong address) =>
        _run.Answers(CheckMap(hwpt, iova, byteLength, address), Errno.Success, "looking the mapping up in the table");

    /// <summary>EIO: a page is pinned another number of times.</summary>
    public Errno CheckPins(ulong address, ulong byteLength, uint pins)
    {
        TestCommand command = TestCommand.Create(TestOperation.CheckPins, 0);
        (command.Word0, command.Word1, command.Word2) = (byteLength, address, pins);
        return Call(ref command);
    }

    public void IsPinned(ulong address, ulong byteLength, uint pins) =>
        _run.Answers(CheckPins(address, byteLength, pins), Errno.Success, $"looking for {pins} pins of each page");

    public Errno TryCreateAccess(uint ioas, uint flags, out KernelFd? access)
    {
        TestCommand command = TestCommand.Create(TestOperation.CreateAccess, ioas);
        command.Word0 = TestCommand.Pair(0, flags);
        Errno errno = Call(ref command);
        access = errno == Errno.Success ? _run.Own(new KernelFd(_run.Kernel, (int)command.First)) : null;
        return errno;
    }

    public KernelFd CreateAccess(uint ioas = 0, bool pins = true)
    {
        _run.Answers(
            TryCreateAccess(ioas == 0 ? _run.Ioas : ioas, pins ? 1u : 0, out KernelFd? access), Errno.Success,
            "making an access");
        return access!;
    }

    /// <summary>Pins; with an address, only what lies there (EBADE).</summary>
    public Errno TryPin(
        KernelFd access, ulong iova, ulong byteLength, out uint item, ulong address = 0, uint flags = 1)
    {
        TestCommand command = TestCommand.Create(TestOperation.AccessPages, (uint)access.Number);
        (command.Word0, command.Word1, command.Word2, command.Word3) = (flags, iova, byteLength, address);
        Errno errno = Call(ref command);
        item = command.Second;
        return errno;
    }

    public uint Pin(KernelFd access, ulong iova, ulong byteLength, ulong address = 0)
    {
        _run.Answers(
            TryPin(access, iova, byteLength, out uint item, address), Errno.Success, "pinning through an access");
        return item;
    }

    public Errno Unpin(KernelFd access, uint item)
    {
        TestCommand command = TestCommand.Create(TestOperation.DestroyAccessPages, (uint)access.Number);
        command.Word0 = item;
        return Call(ref command);
    }

    /// <param name="address">The buffer.</param>
    public Errno ReadWrite(KernelFd access, ulong iova, ulong byteLength, ulong address, uint flags)
    {
        TestCommand command = TestCommand.Create(TestOperation.AccessReadWrite, (uint)access.Number);
        (command.Word0, command.Word1, command.Word2, command.Word3) = (iova, byteLength, address, flags);
        return Call(ref command);
    }

    public Errno ReplaceAccess(KernelFd access, uint ioas)
    {
        TestCommand command = TestCommand.Create(TestOperation.ReplaceAccess, (uint)access.Number);
        command.Word0 = ioas;
        return Call(ref command);
    }

    /// <summary>Marks the leaves of the pages whose bits are set; the number of bits comes back.</summary>
    public Errno SetDirty(
        uint hwpt, ulong iova, ulong byteLength, ulong pageSize, ulong bitmap, out ulong marked)
    {
        TestCommand command = TestCommand.Create(TestOperation.SetDirty, hwpt);
        (command.Word1, command.Word2, command.Word3, command.Word4) = (iova, byteLength, pageSize, bitmap);
        Errno errno = Call(ref command);
        marked = command.Word5;
        return errno;
    }

    public Errno CheckIotlb(uint hwpt, uint entry, uint value)
    {
        TestCommand command = TestCommand.Create(TestOperation.CheckIotlb, hwpt);
        command.Word0 = TestCommand.Pair(entry, value);
        return Call(ref command);
    }

    /// <summary>EINVAL: the device caches something else there.</summary>
    public Errno CheckCache(uint device, uint entry, uint value)
    {
        TestCommand command = TestCommand.Create(TestOperation.CheckDeviceCache, device);
        command.Word0 = TestCommand.Pair(entry, value);
        return Call(ref command);
    }

    /// <summary>An event of a device for the guest that knows it by a number.</summary>
    public Errno TriggerEvent(uint device)
    {
        TestCommand command = TestCommand.Create(TestOperation.TriggerEvent, 0);
        command.Word0 = device;
        return Call(ref command);
    }

    public Errno TriggerFault(uint device, uint pasid, uint group, uint permission, ulong address)
    {
        TestCommand command = TestCommand.Create(TestOperation.TriggerFault, 0);
        command.Word0 = TestCommand.Pair(device, pasid);
        command.Word1 = TestCommand.Pair(group, permission);
        command.Word2 = address;
        return Call(ref command);
    }

    public Errno Pasid(TestOperation operation, TestDevice device, uint pasid, uint target = 0)
    {
        TestCommand command = TestCommand.Create(operation, device.Id);
        command.Word0 = TestCommand.Pair(pasid, target);
        return Call(ref command);
    }

    /// <summary>
    /// Memory of the kernel as a dma-buf; value: its descriptor, which Linux 7.3 does not tell. It is the lowest that is
    /// free, as that of a duplicate was a moment ago.
    /// </summary>
    public SyscallResult TryLend(uint byteLength, uint flags = 0x80002)
    {
        _run.Unrepeatable = "Nothing tells the descriptor of a dma-buf that the test domain makes.";
        SyscallResult duplicate = _run.Kernel.Dup(_run.Iommufd.Number);
        _run.Answers(duplicate.Errno, Errno.Success, "dup");
        _run.Kernel.Close((int)duplicate.Value);
        TestCommand command = TestCommand.Create(TestOperation.GetDmaBuf, 0);
        command.Word0 = TestCommand.Pair(byteLength, flags);
        SyscallResult made = _run.Kernel.Ioctl(_run.Iommufd, ref command);
        return made is { Succeeded: true, Value: 0 } ? duplicate : made;
    }

    public KernelFd Lend(uint byteLength) => _run.OwnFd(TryLend(byteLength), "making a dma-buf");

    public Errno Revoke(int dmaBuf, bool revoked = true)
    {
        TestCommand command = TestCommand.Create(TestOperation.RevokeDmaBuf, 0);
        command.Word0 = TestCommand.Pair(unchecked((uint)dmaBuf), revoked ? 1u : 0);
        return Call(ref command);
    }

    /// <summary>Allocates a table, paging or nested.</summary>
    public Errno TryAllocate(
        TestDevice device, uint parent, IommuHwptAllocFlags flags, out uint hwpt, bool nested = false, uint fault = 0)
    {
        IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.DeviceId, flags, parent);
        if (nested)
            WriteNestedData(ref allocate);
        allocate.FaultId = fault;
        Errno errno = Calls.Iommufd(_run, ref allocate);
        hwpt = allocate.OutHwptId;
        return errno;
    }

    public uint Allocate(TestDevice device, uint parent, IommuHwptAllocFlags flags = IommuHwptAllocFlags.None,
        bool nested = false, uint fault = 0)
    {
        _run.Answers(
            TryAllocate(device, parent, flags, out uint hwpt, nested, fault), Errno.Success, "IOMMU_HWPT_ALLOC");
        return hwpt;
    }

    /// <summary>The data of a nested table, at the start of the case's scratch memory.</summary>
    public void WriteNestedData(ref IommuHwptAlloc allocate)
    {
        _run.Scratch.Words(1)[0] = IotlbValue;
        (allocate.DataType, allocate.DataLen, allocate.DataUptr) = (NestedData, 8, _run.ScratchAddress);
    }
}
