using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>What iommufd charges for pinned pages, to whom, and what it refuses.</summary>
public sealed class LockedMemoryTests : IDisposable
{
    private const ulong Page = 4096;
    private const ulong Limit = 16;
    private const ulong Iova = 1UL << 32;

    private readonly IommufdFixture _fixture = new(testDomain: true, lockedMemory: (Limit * Page) + 4095);

    private SoftProcess Process => _fixture.Kernel.Process;

    private ulong UserPages => Process.User.Locked.Count;

    public void Dispose()
    {
        _fixture.Dispose();
        Assert.Equal((0UL, 0UL, 0UL), (UserPages, Process.Locked.Count, Process.Pinned.Count));
        Assert.True(_fixture.Kernel.CountOpen().IsZero);
    }

    [Fact]
    public void Memory_is_charged_to_the_user_up_to_the_limit()
    {
        (uint ioas, uint hwpt, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(Limit + 1);
        Assert.Equal(Errno.ENOMEM, _fixture.Map(ioas, Iova, memory, (Limit + 1) * Page));
        Assert.Equal(0, _fixture.Kernel.CountOpen().PinnedPages);
        Assert.False(_fixture.Port().TryWrite(Iova, [1]));
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, Limit * Page));
        Assert.Equal((Limit, 0UL, Limit), (UserPages, Process.Locked.Count, Process.Pinned.Count));
        Assert.Equal(Errno.ENOMEM, _fixture.Map(ioas, 2 * Iova, memory, Page));
        Assert.Equal(Errno.ENOENT, _fixture.Unmap(ioas, 2 * Iova, Page));
        Assert.Equal(Limit, UserPages);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, Limit * Page));
        Assert.Equal(0UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, Limit * Page));
        // The last table unpins all; the mapping stays.
        device.Unbind();
        Assert.Equal(Errno.Success, _fixture.Destroy(hwpt));
        Assert.Equal(0UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, Limit * Page));
    }

    [Fact]
    public void Without_a_table_nothing_is_charged_and_a_table_may_be_too_much()
    {
        uint ioas = _fixture.NewIoas();
        ulong memory = Memory(Limit);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, Limit * Page));
        Assert.Equal(Errno.Success, _fixture.Map(ioas, 2 * Iova, memory, Page));
        Assert.Equal(0UL, UserPages);
        IBoundDevice device = _fixture.Bind();
        Assert.Equal(Errno.ENOMEM, _fixture.TryNewHwpt(device.DeviceId, ioas, out _));
        uint id = ioas;
        Assert.Equal(Errno.ENOMEM, device.Attach(ref id));
        Assert.Equal((0UL, 0L), (UserPages, _fixture.Kernel.CountOpen().PinnedPages));
        Assert.Equal(1UL, _fixture.Ranges(ioas).Alignment);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 2 * Iova, Page));
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.Equal(Limit, UserPages);
        // A second table shows what is pinned already.
        _fixture.NewHwpt(device.DeviceId, ioas);
        Assert.Equal(Limit, UserPages);
        device.Unbind();
    }

    [Fact]
    public void A_bad_address_answers_before_the_limit()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(Limit + 2);
        Assert.True(_fixture.Kernel.Munmap(memory + ((Limit + 1) * Page), Page).Succeeded);
        Assert.Equal(Errno.EFAULT, _fixture.Map(ioas, Iova, memory, (Limit + 2) * Page));
        device.Unbind();
    }

    [Fact]
    public void Copies_share_what_is_charged_and_further_mappings_do_not()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(8);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, 8 * Page));
        Assert.Equal(Errno.Success, _fixture.Copy(ioas, 2 * Iova, ioas, Iova, 8 * Page));
        Assert.Equal(Errno.Success, _fixture.Copy(ioas, 3 * Iova, ioas, Iova + Page, 3 * Page));
        Assert.Equal(Errno.Success, _fixture.Copy(ioas, 4 * Iova, ioas, Iova + (3 * Page), 3 * Page));
        Assert.Equal(8UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, 5 * Iova, memory, 8 * Page));
        Assert.Equal(16UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, 8 * Page));
        Assert.Equal(16UL, UserPages);
        // Of the first page set only what the small copies show is left: pages 1 to 5, with page 3 in both.
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 2 * Iova, 8 * Page));
        Assert.Equal(13UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 3 * Iova, 3 * Page));
        Assert.Equal(11UL, UserPages);
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 4 * Iova, 3 * Page));
        Assert.Equal(8UL, UserPages);
        device.Unbind();
    }

    [Fact]
    public void What_a_copy_shows_stays_pinned_when_the_callers_memory_goes()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(4);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, 4 * Page));
        Assert.True(_fixture.Kernel.Munmap(memory, 4 * Page).Succeeded);
        Assert.Equal(Errno.Success, _fixture.Copy(ioas, 2 * Iova, ioas, Iova + Page, Page));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, 4 * Page));
        Assert.Equal((1UL, 1L), (UserPages, _fixture.Kernel.CountOpen().PinnedPages));
        Assert.True(_fixture.Port().TryWrite(2 * Iova, [1]));
        device.Unbind();
    }

    [Fact]
    public void An_access_is_charged_for_what_nobody_pinned_before()
    {
        uint ioas = _fixture.NewIoas();
        ulong memory = Memory(Limit + 1);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, (Limit + 1) * Page));
        Assert.Equal(Errno.Success, Binder().BindAccess(new NoOwner(), pinsPages: true, out IoasAccess? access));
        Assert.Equal(Errno.Success, access!.Attach(ioas));
        Assert.Equal(Errno.Success, access.TryPin(Iova, 4 * Page, write: true, out _));
        Assert.Equal(Errno.Success, access.TryPin(Iova + (2 * Page), 4 * Page, write: true, out _));
        Assert.Equal(6UL, UserPages);
        Assert.Equal(Errno.ENOMEM, access.TryPin(Iova, (Limit + 1) * Page, write: true, out _));
        Assert.Equal(6UL, UserPages);
        Assert.True(access.Unpin(Iova, 4 * Page));
        Assert.Equal(4UL, UserPages);
        Assert.True(access.Unpin(Iova + (2 * Page), 4 * Page));
        access.Close();
    }

    [Fact]
    public void The_mode_is_the_privileged_callers_to_set_before_there_is_anything()
    {
        Assert.Equal(Errno.EPERM, SetMode(1));
        Assert.Equal(Errno.EPERM, SetMode(2));
        using (_fixture.Kernel.Enter(Root()))
        {
            Assert.Equal(Errno.EINVAL, SetMode(2));
            uint ioas = _fixture.NewIoas();
            Assert.Equal(Errno.EBUSY, SetMode(2));
            Assert.Equal(Errno.Success, _fixture.Destroy(ioas));
            Assert.Equal(Errno.Success, SetMode(1));
        }

        (uint space, _, IBoundDevice device) = _fixture.AttachTracking();
        Assert.Equal(Errno.Success, _fixture.Map(space, Iova, Memory(Limit), Limit * Page));
        Assert.Equal((0UL, Limit), (UserPages, Process.Locked.Count));
        Assert.Equal(Errno.ENOMEM, _fixture.Map(space, 2 * Iova, Memory(1), Page));
        // Another process of the same user has its own account.
        using (_fixture.Kernel.Enter(new SoftProcess(Process.User, Page, privileged: false)))
            Assert.Equal(Errno.Success, _fixture.Map(space, 2 * Iova, Memory(1), Page));
        device.Unbind();
    }

    [Fact]
    public void The_processes_of_a_user_are_charged_together_and_the_caller_of_map_sets_the_limit()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(Limit);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, (Limit - 1) * Page));
        var other = new SoftProcess(Process.User, (Limit + 2) * Page, privileged: false);
        using (_fixture.Kernel.Enter(other))
        {
            Assert.Equal(Errno.Success, _fixture.Map(ioas, 2 * Iova, memory, 3 * Page));
            Assert.Equal(Errno.ENOMEM, _fixture.Map(ioas, 3 * Iova, memory, Page));
        }

        Assert.Equal((Limit + 2, 3UL, Limit - 1), (UserPages, other.Pinned.Count, Process.Pinned.Count));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 2 * Iova, 3 * Page));
        Assert.Equal((Limit - 1, 0UL), (UserPages, other.Pinned.Count));
        device.Unbind();
    }

    [Fact]
    public void All_processes_share_one_address_space()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        ulong memory = Memory(1);
        using (_fixture.Kernel.Enter(Root()))
            Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, memory, Page));
        device.Unbind();
    }

    [Fact]
    public void The_privileged_are_counted_and_not_charged()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        SoftProcess root = Root();
        using (_fixture.Kernel.Enter(root))
            Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, Memory(Limit + 1), (Limit + 1) * Page));
        Assert.Equal((0UL, 0UL, Limit + 1), (root.User.Locked.Count, root.Locked.Count, root.Pinned.Count));
        device.Unbind();
        Assert.Equal(Limit + 1, root.Pinned.Count);
        _fixture.Fd.Dispose();
        Assert.Equal(0UL, root.Pinned.Count);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Change_process_moves_what_is_charged_or_nothing(bool chargesProcess)
    {
        using (_fixture.Kernel.Enter(Root()))
            Assert.Equal(Errno.Success, SetMode(chargesProcess ? 1UL : 0));
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        using var file = File(8);
        Assert.Equal(Errno.Success, MapFile(ioas, Iova, file, 8 * Page));
        Assert.Equal(Errno.Success, _fixture.Copy(ioas, 2 * Iova, ioas, Iova, 8 * Page));
        using (_fixture.Kernel.Enter(Root()))
            Assert.Equal(Errno.Success, MapFile(ioas, 3 * Iova, file, 8 * Page));
        var poor = new SoftProcess(new SoftUser(), 7 * Page, privileged: false);
        var next = new SoftProcess(new SoftUser(), 8 * Page, privileged: false);
        using (_fixture.Kernel.Enter(poor))
            Assert.Equal(Errno.ENOMEM, ChangeProcess());
        Assert.Equal((0UL, 0UL), (Charged(poor), poor.Pinned.Count));
        Assert.Equal((8UL, 8UL), (Charged(Process), Process.Pinned.Count));
        using (_fixture.Kernel.Enter(next))
        {
            Assert.Equal(Errno.Success, ChangeProcess());
            Assert.Equal(Errno.Success, ChangeProcess());
        }

        Assert.Equal((0UL, 0UL), (Charged(Process), Process.Pinned.Count));
        // What nobody is charged for does not move: in the lab VmPin was 0 in a process of root's that had asked for it.
        Assert.Equal((8UL, 8UL), (Charged(next), next.Pinned.Count));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, 8 * Page));
        Assert.Equal(8UL, Charged(next));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, 2 * Iova, 8 * Page));
        Assert.Equal((0UL, 0UL), (Charged(next), next.Pinned.Count));
        // Memory of a process can not move; what was mapped stays with its owner.
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Iova, Memory(1), Page));
        using (_fixture.Kernel.Enter(next))
            Assert.Equal(Errno.EINVAL, ChangeProcess());
        Assert.Equal(1UL, Charged(Process));
        device.Unbind();

        ulong Charged(SoftProcess process) =>
            chargesProcess ? process.Locked.Count : process.User.Locked.Count;
    }

    [Fact]
    public void Changing_to_another_process_of_the_user_takes_room_for_both()
    {
        (uint ioas, _, IBoundDevice device) = _fixture.AttachTracking();
        using var file = File(9);
        Assert.Equal(Errno.Success, MapFile(ioas, Iova, file, 9 * Page));
        var other = new SoftProcess(Process.User, Limit * Page, privileged: false);
        using (_fixture.Kernel.Enter(other))
            Assert.Equal(Errno.ENOMEM, ChangeProcess());
        Assert.Equal((9UL, 9UL, 0UL), (UserPages, Process.Pinned.Count, other.Pinned.Count));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Iova, 9 * Page));
        Assert.Equal(Errno.Success, MapFile(ioas, Iova, file, 8 * Page));
        using (_fixture.Kernel.Enter(other))
            Assert.Equal(Errno.Success, ChangeProcess());
        Assert.Equal((8UL, 0UL, 8UL), (UserPages, Process.Pinned.Count, other.Pinned.Count));
        device.Unbind();
    }

    private static SoftProcess Root() => new(new SoftUser(), ulong.MaxValue, privileged: true);

    private ulong Memory(ulong pages) => _fixture.Memory(pages * Page).Address.Value;

    private IIommuBinder Binder()
    {
        Assert.Equal(
            Errno.Success, ((IVfioHost)_fixture.Kernel).FindIommu(_fixture.Fd.Number, out IIommuBinder? binder));
        return binder!;
    }

    private Errno SetMode(ulong mode)
    {
        var command = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Set, 0, mode);
        return _fixture.Call(ref command);
    }

    private KernelFd File(ulong pages)
    {
        var file = new KernelFd(
            _fixture.Kernel, (int)_fixture.Kernel.MemfdCreate("file", MemfdFlags.CloseOnExec).Value);
        Assert.True(_fixture.Kernel.Ftruncate(file.Number, pages * Page).Succeeded);
        return file;
    }

    private Errno MapFile(uint ioas, ulong iova, KernelFd file, ulong byteLength)
    {
        var command = IommuIoasMapFile.Create(ioas, iova, file.Number, 0, byteLength, IommufdFixture.Writable);
        return _fixture.Call(ref command);
    }

    private Errno ChangeProcess()
    {
        var command = IommuIoasChangeProcess.Create();
        return _fixture.Call(ref command);
    }

    private sealed class NoOwner : IIoasAccessOwner
    {
        public void OnUnmap(ulong first, ulong last)
        {
        }
    }
}
