using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

public sealed class IoasAccessTests : IDisposable
{
    private const ulong Iova = 0x1000_0000;

    private readonly IommufdFixture _fixture = new();
    private readonly ScriptedOwner _owner = new();
    private readonly IoasAccess _access;
    private readonly Mapping _memory;
    private readonly uint _ioas;

    public IoasAccessTests()
    {
        ((IVfioHost)_fixture.Kernel).FindIommu(_fixture.Fd.Number, out IIommuBinder? binder);
        Assert.Equal(Errno.Success, binder!.BindAccess(_owner, pinsPages: true, out IoasAccess? access));
        _access = access!;
        _owner.Access = _access;
        _memory = _fixture.Memory(8 * GuestPage.Size);
        _ioas = _fixture.NewIoas();
    }

    public void Dispose()
    {
        _access.Close();
        _fixture.Dispose();
        Assert.True(_fixture.Kernel.CountOpen().IsZero);
    }

    [Fact]
    public void An_access_aligns_its_space_and_keeps_it()
    {
        Assert.Equal(1UL, _fixture.Ranges(_ioas).Alignment);
        Assert.Equal(Errno.Success, _access.Attach(_ioas));
        Assert.Equal(Errno.EINVAL, _access.Attach(_ioas));
        Assert.Equal(4096UL, _fixture.Ranges(_ioas).Alignment);
        Assert.Equal(Errno.EBUSY, _fixture.Destroy(_ioas));
        Assert.Equal(Errno.EBUSY, _fixture.Destroy(_access.Id));
        _access.Detach();
        Assert.Equal(1UL, _fixture.Ranges(_ioas).Alignment);
        Assert.Equal(Errno.Success, _fixture.Destroy(_ioas));
    }

    [Fact]
    public void A_space_with_smaller_mappings_can_not_be_attached()
    {
        Assert.Equal(Errno.Success, _fixture.Map(_ioas, Iova + 1, _memory.Address.Value, 7));
        Assert.Equal(Errno.EADDRINUSE, _access.Attach(_ioas));
        Assert.Equal(Errno.ENOENT, _access.Attach(_access.Id));
        Assert.Equal(Errno.ENOENT, _access.Replace(_ioas));
        Assert.False(_access.IsAttached);
    }

    [Fact]
    public void Pins_span_mappings_and_say_which_pages_they_are()
    {
        Attach(pages: 4);
        Map(4, 4);
        Assert.Equal(Errno.Success, _access.TryPin(Iova + 0x3000, 0x2000, write: true, out AccessPin? pin));
        Assert.Equal([0x3000UL, 0x4000], pin!.Extents.Select(extent => extent.Offset));
        Assert.Equal(Errno.ENOENT, _access.TryPin(Iova + 0x7000, 0x2000, write: true, out _));
        Assert.Equal(Errno.EINVAL, _access.TryPin(Iova, 0, write: true, out _));
        Assert.Equal(Errno.EINVAL, _access.TryPin(Iova + 8, 8, write: true, out _));
        Assert.Equal(Errno.EOVERFLOW, _access.TryPin(ulong.MaxValue, 2, write: true, out _));
        Assert.False(_access.Unpin(Iova + 0x3000, 0x1000));
        Assert.True(_access.Unpin(Iova + 0x3000, 0x2000));
        Assert.Equal(0, _fixture.Kernel.CountOpen().PinnedPages);
    }

    [Fact]
    public void Unmapping_tells_the_owner_which_lets_go()
    {
        Attach(pages: 8);
        Assert.Equal(Errno.Success, _access.TryPin(Iova, 0x2000, write: false, out _));
        _owner.LetsGoOf = (Iova, 0x2000);
        Assert.Equal(Errno.Success, _fixture.Unmap(_ioas, Iova, 0x8000));
        Assert.Equal([(Iova, Iova + 0x7FFF)], _owner.Told);
        Assert.False(_access.Unpin(Iova, 0x2000));
    }

    [Fact]
    public void An_owner_that_keeps_its_pins_makes_unmapping_give_up()
    {
        Attach(pages: 4);
        Map(4, 4);
        Assert.Equal(Errno.Success, _access.TryPin(Iova + 0x4000, 0x1000, write: false, out _));
        Assert.Equal(Errno.EDEADLK, _fixture.Unmap(_ioas, Iova, 0x8000));
        Assert.Equal(IoasAccess.Reminders + 1, _owner.Told.Count);
        // What came before it is unmapped; what is stuck can not be pinned any more, and goes once it is let go of.
        Assert.Equal(Errno.ENOENT, _fixture.Unmap(_ioas, Iova, 0x4000));
        Assert.Equal(Errno.EINVAL, _access.TryPin(Iova + 0x4000, 0x1000, write: false, out _));
        Assert.True(_access.Unpin(Iova + 0x4000, 0x1000));
        Assert.Equal(Errno.Success, _fixture.Unmap(_ioas, Iova + 0x4000, 0x4000));
    }

    [Fact]
    public void Leaving_a_space_ends_every_pin()
    {
        Attach(pages: 4);
        Assert.Equal(Errno.Success, _access.TryPin(Iova, 0x1000, write: false, out _));
        Assert.Equal(Errno.Success, _access.Replace(_fixture.NewIoas()));
        Assert.Equal([(0UL, ulong.MaxValue)], _owner.Told);
        Assert.Equal(Errno.Success, _fixture.Destroy(_ioas));
        Assert.Equal(0, _fixture.Kernel.CountOpen().PinnedPages);
    }

    [Fact]
    public void Reading_and_writing_follow_the_mappings_and_their_permissions()
    {
        Attach(pages: 1);
        Map(1, 1, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable);
        byte[] bytes = [1, 2, 3, 4];
        Assert.Equal(Errno.Success, _access.TryWrite(Iova + 0xFFC, bytes));
        Assert.Equal(bytes, _memory.Bytes(0xFFC, 4).ToArray());
        Assert.Equal(Errno.EPERM, _access.TryWrite(Iova + 0xFFE, [9, 9, 9, 9]));
        Assert.Equal([1, 2, 9, 9, 0], _memory.Bytes(0xFFC, 5).ToArray());
        byte[] read = new byte[8];
        Assert.Equal(Errno.Success, _access.TryRead(Iova + 0xFFC, read));
        Assert.Equal([1, 2, 9, 9, 0, 0, 0, 0], read);
        Assert.Equal(Errno.ENOENT, _access.TryRead(Iova + 0x1FFC, read));
        Assert.Equal(Errno.EINVAL, _access.TryRead(Iova, []));
        Assert.Equal(Errno.EOVERFLOW, _access.TryRead(ulong.MaxValue - 6, read));
    }

    [Fact]
    public void A_file_is_read_and_written_by_its_offsets()
    {
        int file = (int)_fixture.Kernel.MemfdCreate("access", MemfdFlags.CloseOnExec).Value;
        _fixture.Kernel.Ftruncate(file, 0x1000);
        Assert.Equal(Errno.Success, _access.Attach(_ioas));
        var map = IommuIoasMapFile.Create(_ioas, Iova, file, 0, 0x2000, IommufdFixture.Writable);
        Assert.Equal(Errno.Success, _fixture.Call(ref map));
        Assert.Equal(Errno.Success, _access.TryWrite(Iova + 10, [7, 8]));
        byte[] read = new byte[2];
        _fixture.Kernel.Pread(file, read, 10);
        Assert.Equal([7, 8], read);
        Assert.Equal(Errno.EINVAL, _access.TryRead(Iova + 0xFFF, read));
        _fixture.Kernel.Close(file);
    }

    private void Attach(int pages)
    {
        Assert.Equal(Errno.Success, _access.Attach(_ioas));
        Map(0, pages);
    }

    private void Map(int page, int pages, IommuIoasMapFlags flags = IommufdFixture.Writable)
    {
        ulong offset = (ulong)page * GuestPage.Size;
        Assert.Equal(Errno.Success,
            _fixture.Map(_ioas, Iova + offset, _memory.Address.Value + offset, (ulong)pages * GuestPage.Size, flags));
    }

    private sealed class ScriptedOwner : IIoasAccessOwner
    {
        public IoasAccess? Access { get; set; }

        public (ulong Iova, ulong ByteLength)? LetsGoOf { get; set; }

        public List<(ulong First, ulong Last)> Told { get; } = [];

        public void OnUnmap(ulong first, ulong last)
        {
            Told.Add((first, last));
            if (LetsGoOf is (ulong iova, ulong byteLength))
                Access!.Unpin(iova, byteLength);
        }
    }
}
