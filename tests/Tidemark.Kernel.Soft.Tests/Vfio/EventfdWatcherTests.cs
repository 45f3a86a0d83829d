using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class EventfdWatcherTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly LinuxKernel _host = new();
    private readonly Lock _gate = new();

    [Fact]
    public void Every_signal_is_acted_upon_and_none_after_removal()
    {
        using var acted = new SemaphoreSlim(0);
        using var watcher = new EventfdWatcher(_host, _gate, "test");
        using KernelFd eventfd = Eventfd();
        Assert.Equal(Errno.EBADF, watcher.Add(0x7FFF_0000, () => { }, out _));
        Assert.Equal(Errno.Success, watcher.Add(eventfd.Number, () => acted.Release(), out object? watch));
        for (int round = 0; round < 50; round++)
        {
            Signal(eventfd);
            Assert.True(acted.Wait(s_patience));
        }

        using KernelFd other = Eventfd();
        lock (_gate)
            watcher.Remove(watch!);
        Signal(eventfd);
        Assert.Equal(Errno.Success, watcher.Add(other.Number, () => acted.Release(), out _));
        Signal(other);
        Assert.True(acted.Wait(s_patience));
        Assert.Equal(0, acted.CurrentCount);
    }

    [Fact]
    public void It_ends_under_the_gate_that_its_action_waits_for()
    {
        var watcher = new EventfdWatcher(_host, _gate, "test");
        using KernelFd eventfd = Eventfd();
        int acted = 0;
        Assert.Equal(Errno.Success, watcher.Add(eventfd.Number, () => acted++, out _));
        lock (_gate)
        {
            Signal(eventfd);
            watcher.Dispose();
        }

        Assert.Equal(0, acted);
    }

    [Fact]
    public void It_ends_when_nothing_was_ever_watched() => new EventfdWatcher(_host, _gate, "test").Dispose();

    private KernelFd Eventfd() => new(_host, (int)_host.Eventfd(0, EventfdFlags.CloseOnExec).Value);

    private void Signal(KernelFd eventfd) =>
        Assert.Equal(8, _host.Write(eventfd.Number, [1, 0, 0, 0, 0, 0, 0, 0]).Value);
}
