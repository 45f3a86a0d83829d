using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>What type1, and iommufd's imitation of it, charge for pinned pages.</summary>
public sealed class LockedMemoryTests : IDisposable
{
    private const ulong Page = 4096;
    private const ulong Limit = 16;
    private const ulong Iova = 1UL << 32;

    private readonly LegacyFixture _fixture = new(host => host with { LockedMemoryLimit = Limit * Page });

    private SoftProcess Process => _fixture.Kernel.Process;

    private ulong Charged => Process.Locked.Count;

    public void Dispose() => _fixture.Dispose();

    [Fact]
    public void A_mapping_is_charged_to_the_process_until_it_is_unmapped()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0, 1);
        ulong memory = Memory(Limit + 1);
        Assert.Equal(Errno.ENOMEM, _fixture.Map(container, Iova, memory, (Limit + 1) * Page));
        Assert.Equal((0UL, 0L), (Charged, _fixture.Kernel.CountOpen().PinnedPages));
        Assert.False(_fixture.Port().TryWrite(Iova, [1]));
        // Each mapping counts, whatever it shows; each once, however many domains there are.
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, 8 * Page));
        Assert.Equal(Errno.Success, _fixture.Map(container, 2 * Iova, memory, 8 * Page));
        Assert.Equal((16UL, 0UL, 0UL), (Charged, Process.User.Locked.Count, Process.Pinned.Count));
        Assert.Equal(Errno.ENOMEM, _fixture.Map(container, 3 * Iova, memory, Page));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova, 8 * Page, out _));
        Assert.Equal(8UL, Charged);
        _fixture.AssertNothingIsLeft(container, groups[0], groups[1]);
        Assert.Equal(0UL, Charged);
    }

    /// <summary>Page by page: the limit, or the page that can not be pinned.</summary>
    [Theory]
    [InlineData(Limit, Errno.EFAULT)]
    [InlineData(Limit + 1, Errno.ENOMEM)]
    public void What_comes_first_answers(ulong goodPages, Errno expected)
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        ulong memory = Memory(Limit + 3);
        Assert.True(_fixture.Kernel.Munmap(memory + (goodPages * Page), Page).Succeeded);
        Assert.Equal(expected, _fixture.Map(container, Iova, memory, (Limit + 3) * Page));
        _fixture.AssertNothingIsLeft(container, groups[0]);
    }

    [Fact]
    public void The_privileged_are_charged_too_and_not_limited()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        var root = new SoftProcess(Process.User, 0, privileged: true);
        ulong memory = Memory(Limit + 1);
        using (_fixture.Kernel.Enter(root))
            Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, (Limit + 1) * Page));
        Assert.Equal((0UL, Limit + 1), (Charged, root.Locked.Count));
        _fixture.AssertNothingIsLeft(container, groups[0]);
        Assert.Equal(0UL, root.Locked.Count);
    }

    [Fact]
    public void A_device_that_joins_pins_what_was_mapped_or_stays_out()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, MediatedGroup);
        ulong memory = Memory(Limit + 1);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, (Limit + 1) * Page));
        Assert.Equal(0UL, Charged);
        int group = _fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.ENOMEM, _fixture.Join(group, container));
        Assert.Equal((0UL, 0L), (Charged, _fixture.Kernel.CountOpen().PinnedPages));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova, (Limit + 1) * Page, out _));
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, Limit * Page));
        Assert.Equal(Errno.Success, _fixture.Join(group, container));
        Assert.Equal(Limit, Charged);
        Assert.Equal(Errno.Success, _fixture.Leave(group));
        Assert.Equal(0UL, Charged);
        _fixture.AssertNothingIsLeft(container, groups[0], group);
    }

    [Fact]
    public void A_new_address_from_another_process_moves_the_charge_or_fails()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        ulong memory = Memory(8);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, 8 * Page));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, 0, 0, out _,
            VfioDmaUnmapFlags.All | VfioDmaUnmapFlags.Vaddr));
        var poor = new SoftProcess(new SoftUser(), 7 * Page, privileged: false);
        var next = new SoftProcess(new SoftUser(), 8 * Page, privileged: false);
        using (_fixture.Kernel.Enter(poor))
            Assert.Equal(Errno.ENOMEM, _fixture.Map(container, Iova, memory, 8 * Page, VfioDmaMapFlags.Vaddr));
        Assert.Equal((8UL, 0UL), (Charged, poor.Locked.Count));
        using (_fixture.Kernel.Enter(next))
        {
            Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory, 8 * Page, VfioDmaMapFlags.Vaddr));
            Assert.Equal(Errno.EINVAL, _fixture.Map(container, Iova, memory, 8 * Page, VfioDmaMapFlags.Vaddr));
        }

        Assert.Equal((0UL, 8UL), (Charged, next.Locked.Count));
        _fixture.AssertNothingIsLeft(container, groups[0]);
        Assert.Equal(0UL, next.Locked.Count);
    }

    [Fact]
    public void The_imitation_charges_the_process_when_it_was_opened_as_a_container()
    {
        using var fixture = new LegacyFixture(
            host => host with { LockedMemoryLimit = Limit * Page, IommufdContainer = true });
        int container = fixture.OpenContainer();
        int group = fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.Success, fixture.Join(group, container));
        int device = (int)fixture.OpenDevice(group, Intel).Value;
        ulong memory = fixture.Memory((Limit + 1) * Page).Address.Value;
        Assert.Equal(Errno.ENOMEM, fixture.Map(container, Iova, memory, (Limit + 1) * Page));
        Assert.Equal(Errno.Success, fixture.Map(container, Iova, memory, Limit * Page));
        SoftProcess process = fixture.Kernel.Process;
        Assert.Equal((Limit, 0UL, Limit), (process.Locked.Count, process.User.Locked.Count, process.Pinned.Count));
        fixture.AssertNothingIsLeft(device, group, container);
        Assert.Equal((0UL, 0UL), (process.Locked.Count, process.Pinned.Count));
    }

    private ulong Memory(ulong pages) => _fixture.Memory(pages * Page).Address.Value;
}
