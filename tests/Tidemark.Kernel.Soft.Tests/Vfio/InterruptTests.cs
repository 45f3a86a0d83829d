using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class InterruptTests
{
    private const uint None = 1;
    private const uint Bool = 2;
    private const uint Eventfd = 4;
    private const uint Mask = 8;
    private const uint Trigger = 0x20;
    private const uint Msix = 2;

    private readonly DeviceFixture _fixture = new();

    private FakeHostKernel Host => _fixture.Host.HostKernel;

    [Theory]
    [InlineData(0u, 7u, 0u)]
    [InlineData(1u, 9u, 0u)]
    [InlineData(2u, 1u, FakeDeviceModel.Vectors)]
    [InlineData(3u, 9u, 1u)]
    [InlineData(4u, 9u, 1u)]
    public void Interrupts_are_described(uint index, uint flags, uint count)
    {
        byte[] info = DeviceFixture.Words(16, 99, index, 99);
        Assert.Equal(Errno.Success, _fixture.Ioctl(VfioRequests.DeviceGetIrqInfo, info));
        Assert.Equal(DeviceFixture.Words(16, flags, index, count), info);
    }

    [Fact]
    public void Bad_requests_for_a_description()
    {
        Assert.Equal(Errno.EFAULT, _fixture.Ioctl(VfioRequests.DeviceGetIrqInfo, new byte[15]));
        Assert.Equal(Errno.EINVAL, _fixture.Ioctl(VfioRequests.DeviceGetIrqInfo, DeviceFixture.Words(15, 0, 0, 0)));
        Assert.Equal(Errno.EINVAL, _fixture.Ioctl(VfioRequests.DeviceGetIrqInfo, DeviceFixture.Words(16, 0, 5, 0)));
    }

    [Theory]
    [InlineData(19u, None | Trigger, Msix, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, Trigger, Msix, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Bool | Trigger, Msix, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None, Msix, 0u, 0u, Errno.ENOTTY)]
    [InlineData(20u, None | Trigger | Mask, Msix, 0u, 0u, Errno.ENOTTY)]
    [InlineData(20u, None | Trigger | 0x40, Msix, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, 5u, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, 0u, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, Msix, 4u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, Msix, 1u, 4u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, Msix, 2u, 0xFFFF_FFFFu, Errno.EINVAL)]
    [InlineData(23u, Eventfd | Trigger, Msix, 0u, 1u, Errno.EINVAL)]
    [InlineData(28u, Eventfd | Trigger, Msix, 0u, 2u, Errno.EFAULT)]
    [InlineData(20u, None | Mask, Msix, 0u, 1u, Errno.ENOTTY)]
    [InlineData(20u, None | Trigger, Msix, 0u, 0u, Errno.EINVAL)]
    [InlineData(20u, None | Trigger, Msix, 0u, 1u, Errno.EINVAL)]
    public void Bad_settings(uint argsz, uint flags, uint index, uint start, uint count, Errno answer) => Assert.Equal(
        answer,
        _fixture.Ioctl(
            VfioRequests.DeviceSetIrqs, DeviceFixture.Words(argsz, flags, index, start, count, 0xFFFF_FFFF)));

    [Fact]
    public void A_vector_signals_its_eventfd()
    {
        int first = Host.NewEventfd(), third = Host.NewEventfd();
        Assert.Equal(Errno.Success, Set(Eventfd, 0, first, -1, third));
        _fixture.Model.Raise[0]!();
        Assert.Null(_fixture.Model.Raise[1]);
        _fixture.Model.Raise[2]!();
        _fixture.Model.Raise[2]!();
        Assert.Equal((1UL, 2UL), (Host.Counter(first), Host.Counter(third)));

        // The device holds a duplicate: the caller may close its own.
        Host.Close(first);
        _fixture.Model.Raise[0]!();
        Assert.Equal(3, Host.OpenCount);
    }

    [Fact]
    public void A_vector_is_replaced_and_unset_while_others_stay()
    {
        int first = Host.NewEventfd(), second = Host.NewEventfd();
        Set(Eventfd, 0, first, first);
        Set(Eventfd, 1, second);
        Action held = _fixture.Model.Raise[0]!;
        Set(Eventfd, 0, -1);
        held();
        _fixture.Model.Raise[1]!();
        Assert.Equal((0UL, 1UL), (Host.Counter(first), Host.Counter(second)));
        Assert.Null(_fixture.Model.Raise[0]);
        Assert.Equal(3, Host.OpenCount);
    }

    [Fact]
    public void Triggers_without_a_device_loop_back()
    {
        int first = Host.NewEventfd(), second = Host.NewEventfd();
        Set(Eventfd, 0, first, second);
        Assert.Equal(Errno.Success, SetRaw(None | Trigger, 0, 4, []));
        Assert.Equal(Errno.Success, SetRaw(Bool | Trigger, 0, 2, [0, 1]));
        Assert.Equal((1UL, 2UL), (Host.Counter(first), Host.Counter(second)));
    }

    [Fact]
    public void Count_0_disables_once()
    {
        int eventfd = Host.NewEventfd();
        Set(Eventfd, 0, eventfd, eventfd);
        Assert.Equal(3, Host.OpenCount);
        Assert.Equal(Errno.Success, SetRaw(None | Trigger, 0, 0, []));
        Assert.Equal(1, Host.OpenCount);
        Assert.All(_fixture.Model.Raise, Assert.Null);
        Assert.Equal(Errno.EINVAL, SetRaw(None | Trigger, 0, 0, []));
    }

    [Fact]
    public void A_bad_descriptor_undoes_the_call()
    {
        int good = Host.NewEventfd(), file = Host.NewFile();
        Assert.Equal(Errno.EBADF, Set(Eventfd, 0, good, 9999));
        Assert.Equal(Errno.EINVAL, Set(Eventfd, 0, good, file));
        Assert.Equal(2, Host.OpenCount);
        Assert.All(_fixture.Model.Raise, Assert.Null);
        Assert.Equal(Errno.EINVAL, SetRaw(None | Trigger, 0, 1, []));

        Set(Eventfd, 2, good);
        Assert.Equal(Errno.EBADF, Set(Eventfd, 0, good, 9999));
        Assert.Null(_fixture.Model.Raise[0]);
        Assert.NotNull(_fixture.Model.Raise[2]);
        Assert.Equal(3, Host.OpenCount);
    }

    [Fact]
    public void Interrupts_survive_a_reset()
    {
        int eventfd = Host.NewEventfd();
        Set(Eventfd, 1, eventfd);
        _fixture.Ioctl(VfioRequests.DeviceReset, []);
        _fixture.Model.Raise[1]!();
        Assert.Equal(1UL, Host.Counter(eventfd));
        Assert.Null(_fixture.Model.Raise[0]);
    }

    [Theory]
    [InlineData(3u)]
    [InlineData(4u)]
    public void The_drivers_own_interrupts_take_one_eventfd(uint index)
    {
        int eventfd = Host.NewEventfd();
        Assert.Equal(Errno.EINVAL, SetRaw(None | Trigger, 0, 1, [], index));
        Assert.Equal(Errno.Success, SetRaw(Eventfd | Trigger, 0, 1, DeviceFixture.Words((uint)eventfd), index));
        Assert.Equal(Errno.Success, SetRaw(None | Trigger, 0, 1, [], index));
        Assert.Equal(Errno.Success, SetRaw(Bool | Trigger, 0, 1, [1], index));
        Assert.Equal(2UL, Host.Counter(eventfd));
        Assert.Equal(Errno.ENOTTY, SetRaw(None | Mask, 0, 1, [], index));
        Assert.Equal(Errno.Success, SetRaw(None | Trigger, 0, 0, [], index));
        Assert.Equal(1, Host.OpenCount);
    }

    private Errno Set(uint kind, uint start, params int[] eventfds) => SetRaw(
        kind | Trigger, start, (uint)eventfds.Length, DeviceFixture.Words([.. eventfds.Select(fd => (uint)fd)]));

    private Errno SetRaw(uint flags, uint start, uint count, byte[] data, uint index = Msix) => _fixture.Ioctl(
        VfioRequests.DeviceSetIrqs,
        [.. DeviceFixture.Words((uint)(20 + data.Length), flags, index, start, count), .. data]);
}
