using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Tests.Files;

public sealed class UserMemoryTests
{
    [Fact]
    public void Only_mapped_memory_is_reached()
    {
        using SoftKernel kernel = Empty();
        var memory = Mapping.CreateAnonymous(kernel, 3 * 4096);
        UserMemory user = kernel.User;
        ulong address = memory.Address.Value;
        Assert.True(user.TryCopyOut(address + 4090, [1, 2, 3, 4, 5, 6, 7, 8]));
        byte[] back = new byte[8];
        Assert.True(user.TryCopyIn(address + 4090, back));
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8], back);
        Assert.True(user.TryOr(address + 4090, [0x10, 0, 0x10]));
        Assert.Equal([0x11, 2, 0x13], memory.Bytes(4090, 3).ToArray());
        Assert.True(user.TryClear(address + 4090, 3));
        Assert.Equal([0, 0, 0, 4], memory.Bytes(4090, 4).ToArray());
        foreach (ulong bad in new ulong[] { 0, 8, address - 1, address + 3 * 4096 - 7, ulong.MaxValue - 3, 1UL << 63 })
        {
            Assert.False(user.TryCopyIn(bad, back));
            Assert.False(user.TryCopyOut(bad, back));
        }

        // A hole in the middle.
        Assert.True(kernel.Munmap(address + 4096, 4096).Succeeded);
        Assert.False(user.TryCopyIn(address + 4090, back));
        Assert.True(user.TryCopyIn(address + 2 * 4096, back));
        Assert.Equal(2, kernel.CountOpen().Mappings);
        memory.Dispose();
        Assert.Equal(default, kernel.CountOpen());
        Assert.False(user.TryCopyIn(address, back));
    }

    [Fact]
    public void A_mapping_beyond_the_end_of_its_file_is_a_bad_address()
    {
        using SoftKernel kernel = Empty();
        using var file = new KernelFd(kernel, (int)kernel.MemfdCreate("short", MemfdFlags.CloseOnExec).Value);
        using var view = Mapping.CreateShared(file, 8192, 0, MemoryProtection.Read | MemoryProtection.Write);
        byte[] bytes = new byte[4];
        Assert.False(kernel.User.TryCopyIn(view.Address.Value, bytes));
        Assert.Equal(4, kernel.Pwrite(file.Number, [1, 2, 3, 4], 100).Value);
        Assert.True(kernel.User.TryCopyIn(view.Address.Value + 100, bytes));
        Assert.Equal([1, 2, 3, 4], bytes);
        Assert.False(kernel.User.TryCopyIn(view.Address.Value + 4096, bytes));
        Assert.True(kernel.Ftruncate(file.Number, 0).Succeeded);
        Assert.False(kernel.User.TryCopyIn(view.Address.Value + 100, bytes));
    }

    [Fact]
    public void Protection_is_respected()
    {
        using SoftKernel kernel = Empty();
        ulong address = (ulong)kernel.Mmap(
            4096, MemoryProtection.Read, MapFlags.Private | MapFlags.Anonymous, -1, 0).Value;
        Assert.True(kernel.User.TryCopyIn(address, new byte[4]));
        Assert.False(kernel.User.TryCopyOut(address, new byte[4]));
        Assert.True(kernel.Munmap(address, 4096).Succeeded);
        Assert.Equal(Errno.EINVAL, kernel.Munmap(address + 1, 4096).Errno);
        Assert.Equal(Errno.EINVAL, kernel.Munmap(address, 0).Errno);
        Assert.Equal(Errno.EINVAL, kernel.Munmap(0xffff_ffff_ffff_f000, 8192).Errno);
        Assert.Equal(Errno.EINVAL,
            kernel.Mmap(0, MemoryProtection.Read, MapFlags.Private | MapFlags.Anonymous, -1, 0).Errno);
    }

    [Fact]
    public void Discarded_anonymous_memory_is_zero_again()
    {
        using SoftKernel kernel = Empty();
        using var memory = Mapping.CreateAnonymous(kernel, 8192);
        memory.Bytes(0, 8192).Fill(7);
        Assert.True(kernel.Madvise(memory.Address.Value, 4096, MemoryAdvice.DontNeed).Succeeded);
        Assert.Equal(0, memory.Bytes(0, 1)[0]);
        Assert.Equal(7, memory.Bytes(4096, 1)[0]);
    }

    [Fact]
    public void Descriptors_are_duplicated_closed_and_polled()
    {
        using SoftKernel kernel = Empty();
        Assert.Equal(Errno.ENOENT, kernel.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite).Errno);
        Assert.Equal(Errno.ENOENT, kernel.Open("/dev/vfio/0", OpenFlags.ReadWrite).Errno);
        int fd = (int)kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value;
        Assert.Equal(FdTable.First, fd);
        int other = (int)kernel.Dup(fd).Value;
        byte[] alloc = [12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Assert.True(kernel.Ioctl(other, 0x3B81, alloc).Succeeded);
        Assert.True(kernel.Close(fd).Succeeded);
        Assert.Equal(Errno.EBADF, kernel.Close(fd).Errno);
        Assert.Equal(Errno.EBADF, kernel.Ioctl(fd, 0x3B81, alloc).Errno);
        Assert.Equal(1, kernel.CountOpen().IommufdObjects);
        int signal = (int)kernel.Eventfd(0, EventfdFlags.CloseOnExec).Value;
        PollDescriptor[] polled =
        [
            new(signal, PollEvents.In, PollEvents.None), new(other, PollEvents.In, PollEvents.None),
            new(fd, PollEvents.In, PollEvents.None),
        ];
        Assert.Equal(2, kernel.Poll(polled, -1).Value);
        Assert.Equal([PollEvents.None, PollEvents.In, PollEvents.Invalid], polled.Select(one => one.Returned));
        Assert.True(kernel.Close(signal).Succeeded);
        Assert.True(kernel.Close(other).Succeeded);
        Assert.Equal(default, kernel.CountOpen());
    }

    [Fact]
    public void Devices_are_found_in_sysfs()
    {
        var disk = new SoftDisk("/nonexistent", 4096);
        using var kernel = new SoftKernel(
            new LinuxKernel(),
            new SoftHost([new SoftIommuUnit("dmar0")], [new SoftNvme("0000:01:00.0", "dmar0", disk)]));
        ISysfs sysfs = kernel.Sysfs;
        Assert.Equal(["0000:01:00.0"], sysfs.List("/sys/bus/pci/devices"));
        const string Device = "/sys/bus/pci/devices/0000:01:00.0";
        Assert.True(sysfs.TryReadText($"{Device}/class", out string? text));
        Assert.Equal("0x010802", text);
        Assert.True(sysfs.TryReadLink($"{Device}/driver", out string? driver));
        Assert.EndsWith("/nvme-vfio-pci", driver, StringComparison.Ordinal);
        Assert.True(sysfs.TryReadLink($"{Device}/iommu_group", out string? group));
        Assert.Equal("../../../kernel/iommu_groups/0", group);
        Assert.Equal(["0000:01:00.0"], sysfs.List($"{Device}/iommu_group/devices"));
        Assert.Equal(["0000:01:00.0"], sysfs.List($"{Device}/driver"));
        Assert.Equal(["vfio0"], sysfs.List($"{Device}/vfio-dev"));
        Assert.True(sysfs.TryReadText($"{Device}/vfio-dev/vfio0/dev", out _));
        Assert.Equal(["iommu", "vfio"], sysfs.List("/dev"));
        Assert.True(sysfs.Exists("/dev/vfio/devices/vfio0"));
        Assert.False(sysfs.Exists("/dev/vfio/devices/vfio1"));
        Assert.Empty(sysfs.List("/sys/../../nowhere"));
    }

    [Fact]
    public void Discarding_anonymous_memory_cuts_no_hole_into_the_file_beside_it()
    {
        using SoftKernel kernel = Empty();
        using var file = new KernelFd(kernel, (int)kernel.MemfdCreate("kept", MemfdFlags.CloseOnExec).Value);
        Assert.True(kernel.Ftruncate(file.Number, 4096).Succeeded);
        // The host chooses the places: until a view of the file lies right above anonymous memory.
        var anonymous = new List<Mapping>();
        var views = new List<Mapping>();
        Mapping? below = null;
        for (int attempt = 0; attempt < 100 && below is null; attempt++)
        {
            views.Add(Mapping.CreateShared(file, 4096, 0, MemoryProtection.Read | MemoryProtection.Write));
            anonymous.Add(Mapping.CreateAnonymous(kernel, 4096));
            below = anonymous.Find(memory => views[^1].Address.Value == memory.Address.Value + 4096);
        }

        Assert.NotNull(below);
        views[^1].Bytes(0, 1)[0] = 7;
        below.Bytes(0, 1)[0] = 7;
        Assert.True(kernel.Madvise(below.Address.Value, 8192, MemoryAdvice.DontNeed).Succeeded);
        Assert.Equal(0, below.Bytes(0, 1)[0]);
        Assert.Equal(7, views[^1].Bytes(0, 1)[0]);
        anonymous.ForEach(memory => memory.Dispose());
        views.ForEach(view => view.Dispose());
    }

    private static SoftKernel Empty() => new(new LinuxKernel(), new SoftHost([], []));
}
