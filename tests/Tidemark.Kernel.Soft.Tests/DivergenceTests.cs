using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices.Mtty;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Tests.Iommufd;
using Tidemark.Kernel.Soft.Tests.Mtty;

namespace Tidemark.Kernel.Soft.Tests;

/// <summary>
/// Where the soft kernel knowingly answers otherwise than Linux: the entries of docs/internals/divergences.md that no
/// other test asserts.
/// </summary>
public sealed class DivergenceTests
{
    private const ulong Iova = 0x1000_0000;
    private const ulong Page = 4096;
    /// <summary>Above the window of interrupts.</summary>
    private const ulong High = 1UL << 32;
    private const ulong LargePage = 2 << 20;

    /// <summary>Longer than the memory of any host that runs this.</summary>
    private const ulong Huge = 4UL << 40;

    [Fact]
    public void More_memory_than_the_host_has_is_pinned()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        ulong address = Anonymous(fixture.Kernel, Huge);
        Assert.Equal(Errno.Success, fixture.Map(ioas, High, address, Huge));
        Assert.Equal((long)(Huge / Page), fixture.Kernel.CountOpen().PinnedPages);
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, High, Huge));
        Assert.True(fixture.Kernel.Munmap(address, Huge).Succeeded);
        device.Unbind();
    }

    [Fact]
    public void A_container_has_no_driver_for_groups_without_IOMMU()
    {
        using var fixture = new IommufdFixture();
        using var container = Open(fixture.Kernel, "/dev/vfio/vfio");
        Assert.Equal(0, fixture.Kernel.IoctlValue(
            container.Number, VfioRequests.CheckExtension.Value, (ulong)VfioExtension.Noiommu).Value);
    }

    [Fact]
    public void A_large_leaf_is_cached_page_by_page()
    {
        using var fixture = new IommufdFixture(SoftKernelFaults.SkipIotlbDrain);
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(LargePage);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Iova, memory.Address.Value, LargePage));
        fixture.Write(Iova);
        Assert.Equal(512, fixture.DirtyBits(hwpt, Iova, LargePage).Length);
        // The fault leaves the translation of this page cached as dirty; hardware would have the whole leaf cached.
        fixture.Write(Iova);
        Assert.Empty(fixture.DirtyBits(hwpt, Iova, LargePage));
        fixture.Write(Iova + Page);
        Assert.Equal(512, fixture.DirtyBits(hwpt, Iova, LargePage).Length);
        device.Unbind();
    }

    [Fact]
    public void A_descriptor_of_the_soft_kernel_does_not_go_to_another_process()
    {
        using var fixture = new IommufdFixture();
        using var iommufd = Open(fixture.Kernel, "/dev/iommu");
        using var pair = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        Assert.Equal(
            Errno.EOPNOTSUPP, fixture.Kernel.SendRights((int)pair.Handle, [1], [iommufd.Number]).Errno);
        // Another one is the host's to judge: this socket is not connected.
        Assert.Equal(Errno.ENOTCONN, fixture.Kernel.SendRights((int)pair.Handle, [1], []).Errno);
    }

    [Fact]
    public void A_private_view_of_a_memory_file_is_not_pinned()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        using var file = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.MemfdCreate("private", MemfdFlags.CloseOnExec).Value);
        Assert.True(fixture.Kernel.Ftruncate(file.Number, Page).Succeeded);
        ulong address = (ulong)fixture.Kernel.Mmap(
            Page, MemoryProtection.Read | MemoryProtection.Write, MapFlags.Private, file.Number, 0).Value;
        Assert.Equal(Errno.EFAULT, fixture.Map(ioas, Iova, address, Page));
        Assert.True(fixture.Kernel.Munmap(address, Page).Succeeded);
        device.Unbind();
    }

    [Fact]
    public void Pinned_anonymous_memory_is_not_discarded()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(Page);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Iova, memory.Address.Value, Page));
        Assert.Equal(
            Errno.EBUSY, fixture.Kernel.Madvise(memory.Address.Value, Page, MemoryAdvice.DontNeed).Errno);
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, Iova, Page));
        Assert.True(fixture.Kernel.Madvise(memory.Address.Value, Page, MemoryAdvice.DontNeed).Succeeded);
        device.Unbind();
    }

    [Fact]
    public void Beside_a_mapping_in_progress_nothing_is_busy()
    {
        const int Rounds = 300;
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(LargePage);
        var unmapped = new List<Errno>();
        var other = new Thread(() =>
        {
            for (int round = 0; round < Rounds; round++)
                unmapped.Add(fixture.Unmap(ioas, Iova, LargePage));
        })
        { IsBackground = true, Name = "tidemark test unmapping" };
        other.Start();
        for (int round = 0; round < Rounds; round++)
            Assert.True(fixture.Map(ioas, Iova, memory.Address.Value, LargePage) is Errno.Success or Errno.EEXIST);
        other.Join();
        Assert.All(unmapped, errno => Assert.True(errno is Errno.Success or Errno.ENOENT, $"{errno}"));
        device.Unbind();
    }

    [Fact]
    public void The_address_in_an_ioctl_by_number_is_never_read()
    {
        using var fixture = new IommufdFixture();
        Mapping memory = fixture.Memory(Page);
        BitConverter.TryWriteBytes(memory.Bytes(0, 4), IommuIoasAlloc.StructSize);
        Assert.Equal(Errno.EFAULT, fixture.Kernel.IoctlValue(
            fixture.Fd.Number, IommufdRequests.IoasAlloc.Value, memory.Address.Value).Errno);
    }

    [Fact]
    public void A_limit_of_the_kernels_working_memory_changes_nothing()
    {
        using var fixture = new IommufdFixture(testDomain: true);
        Assert.Equal(Errno.EINVAL, Test(fixture, TestDomainOperation.SetMemoryLimit, 0, 11));
        Assert.Equal(Errno.Success, Test(fixture, TestDomainOperation.SetMemoryLimit, 0, 12));
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(LargePage);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Iova, memory.Address.Value, LargePage));
        device.Unbind();
    }

    [Fact]
    public void Syzkallers_flag_is_unknown()
    {
        using var fixture = new IommufdFixture(testDomain: true);
        const ulong Syzkaller = 1 << 16;
        Assert.Equal(Errno.EOPNOTSUPP, Test(fixture, TestDomainOperation.AccessPages, 0, Syzkaller));
        Assert.Equal(Errno.EBADFD, Test(fixture, TestDomainOperation.AccessPages, 0, 0));
    }

    [Fact]
    public void What_mtty_leaves_to_chance_is_zero()
    {
        using var mtty = new MttyFixture();
        mtty.Register(mtty.Card, 0, MttyFixture.Scratch, 0x5A);
        Span<byte> value = [1, 2, 3, 4];
        // Wider than a register; the register of a port that is not there; beyond the end of config space.
        Assert.Equal(4, mtty.Kernel.Pread(mtty.Card, value, MttyFixture.Scratch + 1 - 4).Value);
        Assert.Equal([0, 0, 0], value[1..].ToArray());
        value.Fill(9);
        Assert.Equal(1, mtty.Kernel.Pread(mtty.Card, value[..1], (3UL << 40) + MttyFixture.Scratch).Value);
        Assert.Equal(0, value[0]);
        value.Fill(9);
        Assert.Equal(4, mtty.Kernel.Pread(mtty.Card, value, (7UL << 40) + MttyConfig.ByteLength).Value);
        Assert.Equal([0, 0, 0, 0], value.ToArray());
    }

    [Fact]
    public void A_short_write_of_a_bar_of_mtty_has_zeros_behind_it()
    {
        const int Bar0 = 0x10;
        var config = new MttyConfig(2);
        config.Write(Bar0, [0xF0, 0xFF, 0xFF, 0xFF]);
        config.Write(Bar0, [0x40]);
        byte[] address = new byte[4];
        config.Read(Bar0, address);
        Assert.Equal([0x41, 0, 0, 0], address);
    }

    [Fact]
    public void An_index_into_the_fifo_of_mtty_that_is_none_wraps()
    {
        const int Fifo = 8;
        const int Head = 24;
        var port = new SerialPort(() => { });
        byte[] record = port.Record.ToArray();
        record[Head] = 16 + 5;
        port.Load(record);
        port.Write(0, 0xA5);
        Assert.Equal(0xA5, port.Record[Fifo + 5]);
    }

    private static KernelFd Open(SoftKernel kernel, string path)
    {
        SyscallResult opened = kernel.Open(path, OpenFlags.ReadWrite);
        Assert.Equal(Errno.Success, opened.Errno);
        return new KernelFd(kernel, (int)opened.Value);
    }

    private static ulong Anonymous(SoftKernel kernel, ulong byteLength)
    {
        SyscallResult mapped = kernel.Mmap(
            byteLength, MemoryProtection.Read | MemoryProtection.Write,
            MapFlags.Private | MapFlags.Anonymous | MapFlags.NoReserve, -1, 0);
        Assert.Equal(Errno.Success, mapped.Errno);
        return (ulong)mapped.Value;
    }

    private static Errno Test(IommufdFixture fixture, TestDomainOperation operation, uint id, ulong word)
    {
        byte[] argument = new byte[72];
        BitConverter.TryWriteBytes(argument, 72);
        BitConverter.TryWriteBytes(argument.AsSpan(4), (uint)operation);
        BitConverter.TryWriteBytes(argument.AsSpan(8), id);
        BitConverter.TryWriteBytes(argument.AsSpan(16), word);
        return fixture.Kernel.Ioctl(fixture.Fd.Number, 0x3BA0, argument).Errno;
    }
}
