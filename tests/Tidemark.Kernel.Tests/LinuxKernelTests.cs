using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel.Linux;

namespace Tidemark.Kernel.Tests;

public sealed class LinuxKernelTests
{
    private readonly LinuxKernel _kernel = new();

    [Fact]
    public void Identity_is_the_release_of_the_running_kernel()
    {
        Assert.Equal("linux", _kernel.Identity.Name);
        Assert.Equal(File.ReadAllText("/proc/sys/kernel/osrelease").Trim(), _kernel.Identity.Version);
        Assert.StartsWith("linux ", _kernel.Identity.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void Memory_file_and_its_mapping_are_the_same_bytes()
    {
        using var file = new KernelFd(_kernel, (int)_kernel.MemfdCreate("test", MemfdFlags.None).Value);
        Assert.True(_kernel.Ftruncate(file.Number, 8192).Succeeded);
        using var mapping = Mapping.CreateShared(file, 8192, 0, MemoryProtection.Read | MemoryProtection.Write);
        mapping.Bytes(4096, 5)[4] = 77;
        byte[] buffer = new byte[5];
        Assert.Equal(5, _kernel.Pread(file.Number, buffer, 4096).Value);
        Assert.Equal([0, 0, 0, 0, 77], buffer);
        Assert.Equal(2, _kernel.Pwrite(file.Number, [8, 9], 8190).Value);
        Assert.Equal(9, mapping.Bytes(8191, 1)[0]);
        Assert.Equal(0, _kernel.Pread(file.Number, buffer, 8192).Value);
        Assert.True(_kernel.Fsync(file.Number).Succeeded);
        Assert.True(_kernel.Madvise(mapping.Address.Value, 4096, MemoryAdvice.PopulateWrite).Succeeded);
    }

    [Fact]
    public void Descriptors_go_through_a_socket_with_the_bytes_beside_them()
    {
        (Socket here, Socket there) = UnixSockets.Connect();
        using (here)
        using (there)
        {
            using var file = new KernelFd(_kernel, (int)_kernel.MemfdCreate("sent", MemfdFlags.None).Value);
            Assert.Equal(3, _kernel.Pwrite(file.Number, [7, 8, 9], 0).Value);
            Assert.Equal(2, _kernel.SendRights((int)here.Handle, [1, 2], [file.Number, file.Number]).Value);
            byte[] bytes = new byte[8];
            int[] came = new int[3];
            Assert.Equal(2, _kernel.ReceiveRights((int)there.Handle, bytes, came).Value);
            Assert.Equal([1, 2, 0, 0, 0, 0, 0, 0], bytes);
            Assert.True(came[0] > 2 && came[1] > 2 && came[0] != came[1] && came[0] != file.Number && came[2] == -1);
            const long CloseOnExec = 0x80000;
            string flags = File.ReadAllLines($"/proc/self/fdinfo/{came[0]}")[1];
            Assert.NotEqual(0, Convert.ToInt64(flags.Split('\t')[1], 8) & CloseOnExec);
            Assert.Equal(3, _kernel.Pread(came[1], bytes, 0).Value);
            Assert.Equal([7, 8, 9], bytes[..3]);
            Assert.All(came[..2], descriptor => Assert.True(_kernel.Close(descriptor).Succeeded));

            // Bytes alone, then the end.
            Assert.Equal(1, _kernel.SendRights((int)here.Handle, [5], []).Value);
            Assert.Equal(1, _kernel.ReceiveRights((int)there.Handle, bytes, came).Value);
            Assert.Equal([-1, -1, -1], came);
            here.Shutdown(SocketShutdown.Both);
            Assert.Equal(0, _kernel.ReceiveRights((int)there.Handle, bytes, came).Value);
        }
    }

    [Fact]
    public void Descriptors_that_find_no_room_are_closed_and_one_that_is_none_is_refused()
    {
        (Socket here, Socket there) = UnixSockets.Connect();
        using (here)
        using (there)
        {
            using var file = new KernelFd(_kernel, (int)_kernel.MemfdCreate("sent", MemfdFlags.None).Value);
            int before = Directory.GetFileSystemEntries("/proc/self/fd").Count(IsSent);
            Assert.True(_kernel.SendRights((int)here.Handle, [1], [file.Number, file.Number]).Succeeded);
            Assert.Equal(Errno.EMSGSIZE, _kernel.ReceiveRights((int)there.Handle, new byte[1], new int[1]).Errno);
            Assert.Equal(before, Directory.GetFileSystemEntries("/proc/self/fd").Count(IsSent));
            Assert.Equal(Errno.EBADF, _kernel.SendRights((int)here.Handle, [1], [99999]).Errno);
            Assert.Equal(Errno.EINVAL, _kernel.SendRights((int)here.Handle, [1], new int[300]).Errno);
        }

        static bool IsSent(string path) =>
            new FileInfo(path).LinkTarget?.Contains("memfd:sent", StringComparison.Ordinal) ?? false;
    }

    [Fact]
    public void Part_of_a_file_maps_at_its_offset()
    {
        using var file = new KernelFd(_kernel, (int)_kernel.MemfdCreate("test", MemfdFlags.None).Value);
        Assert.True(_kernel.Ftruncate(file.Number, 8192).Succeeded);
        Assert.Equal(1, _kernel.Pwrite(file.Number, [42], 4096).Value);
        using var second = Mapping.CreateShared(file, 4096, 4096, MemoryProtection.Read);
        Assert.Equal(42, second.Bytes(0, 1)[0]);
    }

    [Fact]
    public void Eventfd_becomes_readable_when_written_and_poll_tells_which_one()
    {
        using var quiet = new KernelFd(_kernel, (int)_kernel.Eventfd(0, EventfdFlags.NonBlocking).Value);
        using var loud = new KernelFd(_kernel, (int)_kernel.Eventfd(0, EventfdFlags.NonBlocking).Value);
        PollDescriptor[] descriptors =
            [new(quiet.Number, PollEvents.In, PollEvents.None), new(loud.Number, PollEvents.In, PollEvents.None)];
        Assert.Equal(0, _kernel.Poll(descriptors, 0).Value);
        byte[] value = new byte[8];
        Assert.Equal(Errno.EAGAIN, _kernel.Read(loud.Number, value).Errno);
        Assert.Equal(8, _kernel.Write(loud.Number, [3, 0, 0, 0, 0, 0, 0, 0]).Value);
        Assert.Equal(1, _kernel.Poll(descriptors, -1).Value);
        Assert.Equal((PollEvents.None, PollEvents.In), (descriptors[0].Returned, descriptors[1].Returned));
        Assert.Equal(8, _kernel.Read(loud.Number, value).Value);
        Assert.Equal(3, value[0]);
    }

    [Fact]
    public void A_descriptor_that_is_none_answers_EBADF_everywhere()
    {
        byte[] buffer = new byte[8];
        Assert.Equal(Errno.EBADF, _kernel.Close(-1).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Dup(-1).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Read(-1, buffer).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Write(-1, buffer).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Pread(-1, buffer, 0).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Pwrite(-1, buffer, 0).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Ioctl(-1, 0x3b81, buffer).Errno);
        Assert.Equal(Errno.EBADF, _kernel.IoctlValue(-1, 0x3b65, 1).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Fsync(-1).Errno);
        Assert.Equal(Errno.EBADF, _kernel.Mmap(4096, MemoryProtection.Read, MapFlags.Shared, -1, 0).Errno);
        Assert.Equal(-1, _kernel.Close(-1).Value);
    }

    [Theory]
    [InlineData("/no/such/path", Errno.ENOENT)]
    [InlineData("", Errno.ENOENT)]
    [InlineData("/proc/self/status/x", Errno.ENOTDIR)]
    [InlineData("/dev/null\0/etc/passwd", Errno.EINVAL)]
    [InlineData(null, Errno.EFAULT)]
    public void A_path_that_can_not_be_opened_is_an_errno_and_no_exception(string? path, Errno expected) =>
        Assert.Equal(expected, _kernel.Open(path!, OpenFlags.ReadOnly).Errno);

    [Fact]
    public void Opened_and_duplicated_descriptors_do_not_survive_exec()
    {
        using var file = new KernelFd(_kernel, (int)_kernel.Open("/dev/null", OpenFlags.ReadOnly).Value);
        using var copy = new KernelFd(_kernel, (int)_kernel.Dup(file.Number).Value);
        foreach (int fd in (int[])[file.Number, copy.Number])
        {
            string flags = File.ReadLines($"/proc/self/fdinfo/{fd}")
                .First(line => line.StartsWith("flags:", StringComparison.Ordinal));
            Assert.Equal(1, Convert.ToInt32(flags["flags:".Length..].Trim(), 8) >> 19 & 1);
        }
    }

    [Fact]
    public void Empty_buffers_are_empty_and_not_a_wild_pointer()
    {
        using var file = new KernelFd(_kernel, (int)_kernel.Open("/dev/zero", OpenFlags.ReadWrite).Value);
        Assert.Equal(0, _kernel.Read(file.Number, []).Value);
        Assert.Equal(0, _kernel.Write(file.Number, []).Value);
        Assert.Equal(0, _kernel.Poll([], 0).Value);
        // The request stores into its argument: through a null pointer that is EFAULT, through a wild one it is damage.
        using var memory = new KernelFd(_kernel, (int)_kernel.Open("/proc/self/pagemap", OpenFlags.ReadOnly).Value);
        Assert.Equal(Errno.EFAULT, _kernel.Ioctl(memory.Number, PagemapRequests.Scan.Value, []).Errno);
    }

    [Fact]
    public void Lengths_and_offsets_beyond_a_signed_number_are_refused_by_the_kernel()
    {
        using var file = new KernelFd(_kernel, (int)_kernel.MemfdCreate("test", MemfdFlags.None).Value);
        Assert.Equal(Errno.EINVAL, _kernel.Pread(file.Number, new byte[1], ulong.MaxValue).Errno);
        Assert.Equal(Errno.EINVAL, _kernel.Ftruncate(file.Number, ulong.MaxValue).Errno);
        const MapFlags Anonymous = MapFlags.Private | MapFlags.Anonymous;
        Assert.False(_kernel.Mmap(ulong.MaxValue, MemoryProtection.Read, Anonymous, -1, 0).Succeeded);
        Assert.Equal(Errno.EINVAL, _kernel.Munmap(ulong.MaxValue, 1).Errno);
        Assert.Equal(Errno.EINVAL, _kernel.Mmap(0, MemoryProtection.Read, Anonymous, -1, 0).Errno);
    }

    [Fact]
    public void Sysfs_reads_lists_links_and_says_no_where_there_is_nothing()
    {
        var sysfs = new LinuxSysfs();
        Assert.True(sysfs.TryReadText("/proc/sys/kernel/ostype", out string? text));
        Assert.Equal("Linux", text);
        Assert.True(sysfs.Exists("/dev/null"));
        Assert.Contains("class", sysfs.List("/sys"));
        Assert.Equal(sysfs.List("/sys").Order(StringComparer.Ordinal), sysfs.List("/sys"));
        Assert.True(sysfs.TryReadLink("/proc/self/exe", out string? target));
        Assert.StartsWith("/", target, StringComparison.Ordinal);

        Assert.False(sysfs.TryReadText("/sys/no/such/file", out _));
        Assert.False(sysfs.TryReadText("/sys", out _));
        Assert.False(sysfs.TryReadLink("/dev/null", out _));
        Assert.False(sysfs.TryReadLink("/no/such", out _));
        Assert.False(sysfs.Exists("/no/such"));
        Assert.Empty(sysfs.List("/no/such"));
        Assert.Empty(sysfs.List("/dev/null"));
        Assert.False(sysfs.TryReadText("", out _));
    }

    [Fact]
    public void Errors_of_many_threads_stay_apart()
    {
        Parallel.For(0, 2000, index =>
        {
            if (index % 2 == 0)
                Assert.Equal(Errno.EBADF, _kernel.Close(-1).Errno);
            else
                Assert.Equal(Errno.ENOENT, _kernel.Open("/no/such", OpenFlags.ReadOnly).Errno);
        });
    }
}
