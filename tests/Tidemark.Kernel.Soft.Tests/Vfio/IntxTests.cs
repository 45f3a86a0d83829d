using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class IntxTests
{
    private const uint Intx = 0;
    private const uint None = 1;
    private const uint Eventfd = 4;
    private const uint Mask = 8;
    private const uint Unmask = 0x10;
    private const uint Trigger = 0x20;

    private readonly DeviceFixture _fixture = new();

    public IntxTests() => _fixture.Model.Intx = false;

    private FakeHostKernel Host => _fixture.Host.HostKernel;

    [Fact]
    public void A_level_signals_once_and_again_when_it_is_unmasked_and_still_there()
    {
        int eventfd = Host.NewEventfd();
        Assert.Equal(Errno.Success, Set(Eventfd | Trigger, fd: eventfd));
        _fixture.Model.AssertIntx!();
        _fixture.Model.AssertIntx!();
        Assert.Equal(1UL, Host.Counter(eventfd));
        _fixture.Model.Intx = true;
        Assert.Equal(Errno.Success, Set(None | Unmask));
        Assert.Equal(2UL, Host.Counter(eventfd));
        _fixture.Model.AssertIntx!();
        Assert.Equal(2UL, Host.Counter(eventfd));
        _fixture.Model.Intx = false;
        Assert.Equal(Errno.Success, Set(None | Unmask));
        Assert.Equal(2UL, Host.Counter(eventfd));
        _fixture.Model.AssertIntx!();
        Assert.Equal(3UL, Host.Counter(eventfd));
    }

    [Fact]
    public void Masked_it_is_silent_and_disabled_the_device_has_its_messages_back()
    {
        int eventfd = Host.NewEventfd();
        Assert.Equal(Errno.Success, Set(Eventfd | Trigger, fd: eventfd));
        Assert.Equal(Errno.Success, Set(None | Mask));
        _fixture.Model.AssertIntx!();
        Assert.Equal(0UL, Host.Counter(eventfd));
        Assert.Equal(Errno.EINVAL, Set(Eventfd | Trigger, fd: eventfd, index: 2));
        Assert.Equal(Errno.Success, Set(None | Trigger, count: 0));
        Assert.Null(_fixture.Model.AssertIntx);
        Assert.Equal(1, Host.OpenCount);
        Assert.Equal(Errno.EINVAL, Set(None | Trigger, count: 0));
        Assert.Equal(Errno.Success, Set(Eventfd | Trigger, fd: eventfd, index: 2));
        Assert.Equal(Errno.EINVAL, Set(Eventfd | Trigger, fd: eventfd));
    }

    [Fact]
    public void It_survives_a_reset_and_ends_with_the_close()
    {
        int eventfd = Host.NewEventfd();
        Assert.Equal(Errno.Success, Set(Eventfd | Trigger, fd: eventfd));
        Assert.Equal(Errno.Success, _fixture.Ioctl(VfioRequests.DeviceReset, []));
        Assert.NotNull(_fixture.Model.AssertIntx);
        _fixture.File.Release();
        Assert.Null(_fixture.Model.AssertIntx);
        Assert.Equal(1, Host.OpenCount);
    }

    private Errno Set(uint flags, uint count = 1, int fd = -1, uint index = Intx) => _fixture.Ioctl(
        VfioRequests.DeviceSetIrqs, DeviceFixture.Words(24, flags, index, 0, count, (uint)fd));
}
