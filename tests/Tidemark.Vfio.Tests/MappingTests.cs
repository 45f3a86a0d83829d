using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>What is mapped, remembered, refused and undone.</summary>
public sealed class MappingTests : IDisposable
{
    private const ulong MiB = 1 << 20;

    private readonly ScriptedKernel _kernel = new();
    private readonly IommufdContainer _container;
    private readonly KernelFd _memoryFile;

    private readonly GuestMemory _memory = new(
    [
        new MemorySlot(new GuestPhysicalAddress(0), 2 * MiB, new HostAddress(0x7f00_0000_0000), 0),
        new MemorySlot(new GuestPhysicalAddress(16 * MiB), 4 * MiB, new HostAddress(0x7f00_0020_0000), 2 * MiB),
    ]);

    public MappingTests()
    {
        _container = _kernel.CreateContainer();
        _memoryFile = new KernelFd(_kernel, 40, owned: false);
    }

    public void Dispose() => _memoryFile.Dispose();

    [Fact]
    public void Guest_memory_is_mapped_from_its_file_at_equal_addresses()
    {
        _kernel.ExpectUsableIovas((0, ulong.MaxValue));
        ExpectMapFile(iova: 0, fileOffset: 0, length: 2 * MiB);
        ExpectMapFile(iova: 16 * MiB, fileOffset: 2 * MiB, length: 4 * MiB);
        _container.MapMemory(_memory, _memoryFile);

        Assert.Equal(
            [new GuestPhysicalAddress(0), new GuestPhysicalAddress(16 * MiB)],
            _container.Ioas.Areas.Select(area => area.Guest!.Value));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_window_maps_only_itself()
    {
        _kernel.ExpectUsableIovas((0, ulong.MaxValue));
        ExpectMapFile(iova: 17 * MiB, fileOffset: 3 * MiB, length: MiB);
        _container.MapWindow(_memory, new GuestPhysicalAddress(17 * MiB), MiB, _memoryFile);
        Assert.Equal(
            IovaRange.FromLength(new Iova(17 * MiB), MiB), Assert.Single(_container.Ioas.Areas).Range);
        Assert.Throws<ArgumentOutOfRangeException>(
            () => _container.MapWindow(_memory, new GuestPhysicalAddress(MiB), 2 * MiB, _memoryFile));
    }

    [Fact]
    public void An_old_kernel_maps_by_address_what_it_can_not_map_from_the_file()
    {
        _kernel.ExpectMapFile(0x1000, Errno.ENOTTY);
        _kernel.Expect(IommufdRequests.IoasMap, (_, argument) =>
        {
            Assert.Equal(0x7f00_0000_1000UL, argument.Read64(16));
            return Errno.Success;
        });
        _container.Ioas.MapFile(new Iova(0x1000), _memoryFile, 0, 0x1000, new HostAddress(0x7f00_0000_1000),
            DmaAccess.ReadWrite);
        Assert.Single(_container.Ioas.Areas);
    }

    [Fact]
    public void Memory_outside_the_usable_IOVAs_is_refused_before_anything_is_mapped()
    {
        _kernel.ExpectUsableIovas((0, (16 * MiB) - 1), (17 * MiB, ulong.MaxValue));
        KernelException failure =
            Assert.Throws<KernelException>(() => _container.MapMemory(_memory, _memoryFile));
        Assert.Contains("0x1000000-0x13fffff", failure.Message, StringComparison.Ordinal);
        Assert.Contains("0x0-0xffffff, 0x1100000-0xffffffffffffffff", failure.Message, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Empty(_container.Ioas.Areas);
    }

    [Fact]
    public void A_failure_in_the_middle_unmaps_what_this_call_mapped()
    {
        _kernel.ExpectUsableIovas((0, ulong.MaxValue));
        _kernel.ExpectMapFile(0);
        _kernel.ExpectMapFile(16 * MiB, Errno.ENOMEM);
        _kernel.ExpectUnmap(0);
        KernelException failure =
            Assert.Throws<KernelException>(() => _container.MapMemory(_memory, _memoryFile));
        Assert.Equal(Errno.ENOMEM, failure.Errno);
        Assert.Contains("ulimit -l", failure.Message, StringComparison.Ordinal);
        Assert.Empty(_container.Ioas.Areas);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Unmapping_nothing_is_an_answer_and_cutting_a_mapping_is_refused()
    {
        Ioas ioas = _container.Ioas;
        Assert.Equal(0UL, ioas.Unmap(IovaRange.FromLength(new Iova(0), 0x1000)));
        _kernel.ExpectMap(0x1000);
        ioas.Map(new Iova(0x1000), new HostAddress(0x1000), 0x2000, DmaAccess.ReadWrite);
        Assert.Throws<ArgumentException>(() => ioas.Unmap(IovaRange.FromLength(new Iova(0x1000), 0x1000)));
        Assert.Single(ioas.Areas);
        _kernel.ExpectUnmap(0x1000, Errno.ENOENT);
        Assert.Equal(0UL, ioas.Unmap(IovaRange.FromLength(new Iova(0), 0x10000)));
        Assert.Empty(ioas.Areas);
    }

    [Fact]
    public void A_failing_unmap_leaves_exactly_what_is_still_mapped()
    {
        Ioas ioas = _container.Ioas;
        foreach (ulong iova in new ulong[] { 0x3000, 0x1000, 0x2000 })
        {
            _kernel.ExpectMap(iova);
            ioas.Map(new Iova(iova), new HostAddress(0x1000), 0x1000, DmaAccess.ReadWrite);
        }

        _kernel.ExpectUnmap(0x1000);
        _kernel.ExpectUnmap(0x2000, Errno.EBUSY);
        Assert.Throws<KernelException>(() => ioas.Unmap(IovaRange.FromLength(new Iova(0x1000), 0x3000)));
        Assert.Equal([0x2000UL, 0x3000UL], ioas.Areas.Select(area => area.Range.First.Value));
    }

    [Fact]
    public void Usable_IOVAs_that_never_stop_growing_end_in_an_error()
    {
        uint count = 0;
        for (int attempt = 0; attempt < 8; attempt++)
        {
            _kernel.Expect(IommufdRequests.IoasIovaRanges, (_, argument) =>
            {
                argument.Write32(8, ++count);
                return Errno.EMSGSIZE;
            });
        }

        Assert.Equal(Errno.EMSGSIZE,
            Assert.Throws<KernelException>(() => _container.Ioas.GetUsableIovas()).Errno);
        Assert.Equal(0, _kernel.LiveMappings);
    }

    private void ExpectMapFile(ulong iova, ulong fileOffset, ulong length) =>
        _kernel.Expect(IommufdRequests.IoasMapFile, (_, argument) =>
        {
            Assert.Equal(7, argument.Read32(4));
            Assert.Equal(40, argument.Read32(12));
            Assert.Equal(fileOffset, argument.Read64(16));
            Assert.Equal(length, argument.Read64(24));
            Assert.Equal(iova, argument.Read64(32));
            return Errno.Success;
        });
}
