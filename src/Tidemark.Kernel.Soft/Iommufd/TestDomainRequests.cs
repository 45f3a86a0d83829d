using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// IOMMU_TEST_CMD (drivers/iommu/iommufd/selftest.c): devices without hardware, and looks at what other requests did.
/// Only with <see cref="SoftHost.TestDomain"/>.
/// </summary>
/// <remarks>
/// Runs without the context's lock: an access that is named by its descriptor can be of another context, and pins are
/// counted in all of them. Each operation takes what locks it needs.
/// FIDELITY: the flag that turns IOVAs into numbers of mappings (for syzkaller) is an unknown one.
/// </remarks>
internal sealed partial class IommufdContext
{
    /// <summary>LIMIT: bytes that one operation on an access may touch (Linux's number).</summary>
    private const ulong LargestAccess = 16 << 20;

    /// <summary>LIMIT: pages that one SET_DIRTY may name (Linux's number).</summary>
    private const ulong MostDirtyPages = LargestAccess * 8;

    /// <summary>LIMIT: bytes of one dma-buf (Linux's number).</summary>
    private const ulong LargestLentMemory = 512 * GuestPage.Size;

    private const uint SmallestMemoryLimit = 12;
    private const uint AccessNeedsPins = 1;
    private const uint AccessWrite = 1;
    private const uint AccessSlow = 4;

    private SyscallResult RunTest(Span<byte> argument)
    {
        Errno errno = Take(argument, TestDomainCommand.MinimumSize, out TestDomainCommand command, out int given);
        if (errno == Errno.Success && command.Operation == TestDomainOperation.GetDmaBuf)
            return LendTestMemory(command.First);
        if (errno == Errno.Success)
            errno = RunTest(ref command);
        if (errno != Errno.Success)
            return SyscallResult.Fail(errno);
        StructBytes.Of(ref command)[..given].CopyTo(argument);
        return SyscallResult.Ok();
    }

    private Errno RunTest(ref TestDomainCommand command)
    {
        switch (command.Operation)
        {
            case TestDomainOperation.CheckPins:
                return CheckPins(command.Word1, command.Word0, unchecked((uint)command.Word2));
            case TestDomainOperation.CreateAccess:
                return CreateTestAccess(ref command);
            case TestDomainOperation.DestroyAccessPages:
                uint item = command.First;
                return UseAccess(command.Id, access => access.TryUnpin(item) ? Errno.Success : Errno.ENOENT);
            case TestDomainOperation.AccessPages:
                return PinByAccess(ref command);
            case TestDomainOperation.AccessReadWrite:
                return ReadWriteByAccess(ref command);
            case TestDomainOperation.ReplaceAccess:
                uint ioas = command.First;
                return UseAccess(command.Id, access => access.Access.Replace(ioas));
            case TestDomainOperation.RevokeDmaBuf:
                return RevokeTestMemory(unchecked((int)command.First), command.Second != 0);
            case TestDomainOperation.SetMemoryLimit:
                // FIDELITY: it would make the kernel work in smaller batches, of which there are none.
                return command.First < SmallestMemoryLimit ? Errno.EINVAL : Errno.Success;
            default:
                lock (Gate)
                    return RunLockedTest(ref command);
        }
    }

    private Errno RunLockedTest(ref TestDomainCommand command)
    {
        switch (command.Operation)
        {
            case TestDomainOperation.AddReserved:
                return AddReserved(command.Id, command.Word0, command.Word1);
            case TestDomainOperation.CreateDevice:
                return CreateTestDevice(TestDeviceFlags.None, ref command);
            case TestDomainOperation.CreateDeviceWithFlags:
                return CreateTestDevice((TestDeviceFlags)command.Fourth, ref command);
            case TestDomainOperation.CheckMap:
                return CheckMap(command.Id, command.Word0, command.Word1, command.Word2);
            case TestDomainOperation.SetDirty:
                return SetTestDirty(ref command);
            case TestDomainOperation.CheckIotlb:
                return Objects.Find<NestedHwpt>(command.Id) is not NestedHwpt nested ? Errno.ENOENT
                    : nested.Holds(command.First, command.Second) ? Errno.Success : Errno.EINVAL;
            case TestDomainOperation.TriggerFault:
                return TriggerFault(ref command);
            case TestDomainOperation.CheckDeviceCache:
                return Objects.Find<BoundDevice>(command.Id) is not BoundDevice cached ? Errno.ENOENT
                    : cached.TestDevice?.CacheHolds(command.First, command.Second) == true
                        ? Errno.Success : Errno.EINVAL;
            case TestDomainOperation.TriggerEvent:
                return TriggerEvent(command.First);
            case TestDomainOperation.ReplaceDevice:
                return ReplaceTestDevice(ref command);
            case TestDomainOperation.AttachPasid or TestDomainOperation.ReplacePasid:
                return ChangePasid(ref command);
            case TestDomainOperation.DetachPasid:
                if (Objects.Find<TestDomainDevice>(command.Id) is not TestDomainDevice detached)
                    return Errno.ENOENT;
                detached.Device.Detach(command.First);
                return Errno.Success;
            case TestDomainOperation.CheckPasid:
                return CheckPasidTable(ref command);
            default:
                return Errno.EOPNOTSUPP;
        }
    }

    /// <summary>
    /// Memory of the kernel, as a device would lend it. As in Linux 7.3 nothing tells the descriptor, which is the lowest
    /// that was free.
    /// </summary>
    private SyscallResult LendTestMemory(uint byteLength)
    {
        ulong whole = ((ulong)byteLength + (GuestPage.Size - 1)) & ~((ulong)GuestPage.Size - 1);
        if (whole is 0 or > LargestLentMemory)
            return SyscallResult.Fail(Errno.EINVAL);
        if (!_kernel.Physical.TryAddPeer(NoPeer.Instance, out ulong physical))
            return SyscallResult.Fail(Errno.ENOMEM);
        var lent = new DmaBuf(physical, whole, isWhole: true)
        {
            IsOfTestDomain = true,
            Released = () => _kernel.Physical.RemoveWindow(physical),
        };
        _kernel.Install(new DmaBufFile(lent));
        return SyscallResult.Ok();
    }

    /// <summary>EBADF: not open; EINVAL: not a dma-buf; EOPNOTSUPP: a device's.</summary>
    private Errno RevokeTestMemory(int descriptor, bool revoked)
    {
        if (!_kernel.TryFindDmaBuf(descriptor, out DmaBuf? lent))
        {
            bool isOpen = _kernel.TryFindFile(descriptor, out MemoryObject? file);
            file?.Release();
            return isOpen ? Errno.EINVAL : Errno.EBADF;
        }

        bool own = lent.IsOfTestDomain;
        if (own)
            lent.Move(revoked, evenIfSame: true);
        lent.Release();
        return own ? Errno.Success : Errno.EOPNOTSUPP;
    }

    private Errno AddReserved(uint ioasId, ulong start, ulong byteLength)
    {
        if (byteLength == 0)
            return Errno.EINVAL;
        if (start > ulong.MaxValue - (byteLength - 1))
            return Errno.EOVERFLOW;
        // Nobody's, so it stays as long as the space does.
        return Objects.Find<Ioas>(ioasId) is Ioas ioas
            ? ioas.TryReserve(start, start + (byteLength - 1), owner: ioas) : Errno.ENOENT;
    }

    private Errno CreateTestDevice(TestDeviceFlags flags, ref TestDomainCommand command)
    {
        if ((flags & ~TestDeviceFlags.Known) != 0)
            return Errno.EINVAL;
        var device = new TestDomainDevice(this, _kernel.Physical, flags);
        // ORDER: the number of the test's object is taken before that of the device.
        Objects.Add(device);
        Objects.Add(device.Device);
        uint pageTable = command.Id;
        Errno errno = device.Device.TryAttach(0, ref pageTable);
        if (errno != Errno.Success)
        {
            Objects.TryDestroy(device.Id);
            return errno;
        }

        (command.First, command.Second, command.Third) = (device.Id, pageTable, device.Device.Id);
        return Errno.Success;
    }

    private Errno ReplaceTestDevice(ref TestDomainCommand command)
    {
        if (Objects.Find<TestDomainDevice>(command.Id) is not TestDomainDevice device)
            return Errno.ENOENT;
        uint pageTable = command.First;
        Errno errno = device.Device.TryReplace(0, ref pageTable);
        if (errno == Errno.Success)
            command.First = pageTable;
        return errno;
    }

    private Errno ChangePasid(ref TestDomainCommand command)
    {
        if (Objects.Find<TestDomainDevice>(command.Id) is not TestDomainDevice device)
            return Errno.ENOENT;
        uint pageTable = command.Second;
        Errno errno = command.Operation == TestDomainOperation.AttachPasid
            ? device.Device.TryAttach(command.First, ref pageTable)
            : device.Device.TryReplace(command.First, ref pageTable);
        if (errno == Errno.Success)
            command.Second = pageTable;
        return errno;
    }

    private Errno CheckPasidTable(ref TestDomainCommand command)
    {
        if (Objects.Find<TestDomainDevice>(command.Id) is not TestDomainDevice device)
            return Errno.ENOENT;
        AttachableTable? attached = device.Device.TableOf(command.First);
        if (command.Second == 0)
            return attached is null ? Errno.Success : Errno.EINVAL;
        IommuObject? expected = Objects.Find(command.Second);
        if (expected is null)
            return Errno.ENOENT;
        return expected is AttachableTable && ReferenceEquals(expected, attached) ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Whether a table shows at each IOVA the very memory that lies at an address of the caller's.</summary>
    private Errno CheckMap(uint hwptId, ulong iova, ulong byteLength, ulong address)
    {
        Errno errno = FindTestTable(hwptId, out Hwpt? hwpt);
        if (errno != Errno.Success)
            return errno;
        ulong page = hwpt!.Table.Format.SmallestPage;
        if (iova % page != 0 || byteLength % page != 0 || address % page != 0 || address > ulong.MaxValue - byteLength)
            return Errno.EINVAL;
        for (ulong done = 0; done < byteLength; done += page)
        {
            errno = TryLocate(address + done, out ulong physical);
            if (errno != Errno.Success)
                return errno;
            if (!hwpt.Table.TryFind(unchecked(iova + done), out ulong shown, out _) || shown != physical)
                return Errno.EINVAL;
        }

        return Errno.Success;
    }

    private Errno FindTestTable(uint hwptId, out Hwpt? hwpt)
    {
        hwpt = Objects.Find<Hwpt>(hwptId);
        if (hwpt is null)
            return Errno.ENOENT;
        return hwpt.Driver is Paging.TestDomainDriver ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Where an address of the caller's is. EFAULT: nowhere.</summary>
    private Errno TryLocate(ulong address, out ulong physical)
    {
        physical = 0;
        ulong inPage = address % GuestPage.Size;
        var extents = new List<PinnedExtent>();
        Errno errno = User.TryPin(address - inPage, GuestPage.Size, write: false, extents);
        if (errno != Errno.Success)
            return errno;
        physical = extents[0].Object.PhysicalAddress(extents[0].Offset) + inPage;
        extents[0].Object.Unpin(extents[0].ByteLength);
        return Errno.Success;
    }

    private Errno SetTestDirty(ref TestDomainCommand command)
    {
        (ulong iova, ulong byteLength, ulong pageSize, ulong bitmap) =
            (command.Word1, command.Word2, command.Word3, command.Word4);
        if (pageSize == 0 || byteLength == 0 || iova % pageSize != 0 || byteLength % pageSize != 0 || bitmap == 0)
            return Errno.EINVAL;
        ulong pages = byteLength / pageSize;
        if (pages > MostDirtyPages)
            return Errno.EOVERFLOW;
        Errno errno = FindTestTable(command.Id, out Hwpt? hwpt);
        if (errno != Errno.Success)
            return errno;
        if (!hwpt!.DirtyTracking || !hwpt.Table.Tracking)
            return Errno.EINVAL;
        byte[] bits = new byte[(pages + 7) / 8];
        if (!User.TryCopyIn(bitmap, bits))
            return Errno.EFAULT;
        ulong marked = 0;
        for (ulong page = 0; page < pages; page++)
        {
            if ((bits[page / 8] >> (int)(page % 8) & 1) == 0)
                continue;
            // What is not mapped is counted all the same.
            hwpt.Table.TrySetDirty(unchecked(iova + page * pageSize));
            marked++;
        }

        command.Word5 = marked;
        return Errno.Success;
    }

    private Errno TriggerFault(ref TestDomainCommand command)
    {
        if (Objects.Find<BoundDevice>(command.First) is not BoundDevice device)
            return Errno.ENOENT;
        if (device.TestDevice is null)
            return Errno.EINVAL;
        device.TestDevice.Fault(
            command.Second, command.Third, (IommuHwptPgfaultPerm)command.Fourth, command.Word2);
        return Errno.Success;
    }

    private Errno CreateTestAccess(ref TestDomainCommand command)
    {
        uint flags = command.Second;
        if ((flags & ~AccessNeedsPins) != 0)
            return Errno.EOPNOTSUPP;
        var file = new TestDomainAccess(this);
        Errno errno = BindAccess(file, (flags & AccessNeedsPins) != 0, out IoasAccess? access);
        if (errno != Errno.Success)
            return errno;
        errno = access!.Attach(command.Id);
        if (errno != Errno.Success)
        {
            access.Close();
            return errno;
        }

        file.Use(access);
        command.First = (uint)_kernel.Install(file);
        return Errno.Success;
    }

    private Errno UseAccess(uint descriptor, Func<TestDomainAccess, Errno> use) =>
        _kernel.UseFile(unchecked((int)descriptor), use, otherwise: Errno.EBADFD);

    private Errno PinByAccess(ref TestDomainCommand command)
    {
        uint flags = command.First;
        (ulong iova, ulong byteLength, ulong address) = (command.Word1, command.Word2, command.Word3);
        if (byteLength > LargestAccess)
            return Errno.ENOMEM;
        if ((flags & ~AccessWrite) != 0)
            return Errno.EOPNOTSUPP;
        uint made = 0;
        Errno errno = UseAccess(command.Id, access => !access.Access.PinsPages
            ? Errno.EOPNOTSUPP
            : access.TryPin(
                iova, byteLength, flags != 0, pin => CheckPages(pin, address), out made));
        if (errno == Errno.Success)
            command.Second = made;
        return errno;
    }

    /// <summary>Whether what is pinned is what lies at an address of the caller's; 0: not asked. EBADE: it is
    /// not.</summary>
    private Errno CheckPages(AccessPin pin, ulong address)
    {
        if (address == 0)
            return Errno.Success;
        var found = new List<PinnedExtent>();
        ulong next = unchecked(address - pin.Iova % GuestPage.Size);
        foreach (PinnedExtent extent in pin.Extents)
        {
            for (ulong done = 0; done < extent.ByteLength; done += GuestPage.Size)
            {
                Errno errno = User.TryPin(
                    next & ~((ulong)GuestPage.Size - 1), GuestPage.Size, write: false, found);
                if (errno != Errno.Success)
                    return errno;
                PinnedExtent page = found[0];
                page.Object.Unpin(page.ByteLength);
                found.Clear();
                if (!ReferenceEquals(page.Object, extent.Object) || page.Offset != extent.Offset + done)
                    return Errno.EBADE;
                next = unchecked(next + GuestPage.Size);
            }
        }

        return Errno.Success;
    }

    private Errno ReadWriteByAccess(ref TestDomainCommand command)
    {
        (ulong iova, ulong byteLength, ulong address) = (command.Word0, command.Word1, command.Word2);
        uint flags = unchecked((uint)command.Word3);
        if (byteLength > LargestAccess)
            return Errno.ENOMEM;
        if ((flags & ~(AccessWrite | AccessSlow)) != 0)
            return Errno.EOPNOTSUPP;
        bool write = (flags & AccessWrite) != 0;
        return UseAccess(command.Id, access =>
        {
            byte[] buffer = new byte[byteLength];
            if (write && !User.TryCopyIn(address, buffer))
                return Errno.EFAULT;
            Errno errno = write ? access.Access.TryWrite(iova, buffer) : access.Access.TryRead(iova, buffer);
            if (errno != Errno.Success || write)
                return errno;
            return User.TryCopyOut(address, buffer) ? Errno.Success : Errno.EFAULT;
        });
    }

    /// <summary>Whether each page is pinned so many times: once for each page set, whoever uses it. EIO: not so.</summary>
    private Errno CheckPins(ulong address, ulong byteLength, uint expected)
    {
        if (byteLength % GuestPage.Size != 0 || address % GuestPage.Size != 0
            || address > ulong.MaxValue - byteLength)
        {
            return Errno.EINVAL;
        }

        PageSet[] sets = [.. _kernel.CollectPageSets()];
        var found = new List<PinnedExtent>();
        for (ulong done = 0; done < byteLength; done += GuestPage.Size)
        {
            Errno errno = User.TryPin(address + done, GuestPage.Size, write: false, found);
            if (errno != Errno.Success)
                return errno;
            PinnedExtent page = found[0];
            page.Object.Unpin(page.ByteLength);
            found.Clear();
            if (sets.Count(set => set.Pins(page.Object, page.Offset)) != expected)
                return Errno.EIO;
        }

        return Errno.Success;
    }
}

/// <summary>Memory that a test device would reach, if it made any DMA.</summary>
internal sealed class NoPeer : IPeerTarget
{
    public static NoPeer Instance { get; } = new();

    public void WriteByPeer(ulong offset, ReadOnlySpan<byte> bytes)
    {
    }

    public void ReadByPeer(ulong offset, Span<byte> into) => into.Clear();
}
