using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Tests.Vfio;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Tests.Mtty;

/// <summary>
/// A soft kernel with two cards of two ports and one of one port, the first bound to an iommufd.
/// </summary>
internal sealed class MttyFixture : IDisposable
{
    public const string First = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    public const string Second = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
    public const string Single = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003";
    public const int StreamLength = 96;
    public const int HeaderLength = 24;
    public const int Scratch = 7;

    public static readonly byte[] Header =
    [
        0x4E, 0x2C, 0x3E, 0x8C, 0x89, 0x09, 0x9D, 0x7E, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
    ];

    private readonly LinuxKernel _host = new();

    public MttyFixture()
    {
        Kernel = new SoftKernel(_host, new SoftHost([], [])
        {
            Mediated = [new SoftMtty(First, 2), new SoftMtty(Second, 2), new SoftMtty(Single, 1)],
        });
        Iommufd = new KernelFd(Kernel, (int)Kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        Card = OpenBound(0);
    }

    public SoftKernel Kernel { get; }

    public KernelFd Iommufd { get; }

    /// <summary>The first card's descriptor.</summary>
    public int Card { get; set; }

    public int Open(int index) => (int)Kernel.Open($"/dev/vfio/devices/vfio{index}", OpenFlags.ReadWrite).Value;

    public Errno Bind(int card, out uint deviceId)
    {
        byte[] bind = DeviceFixture.Words(16, 0, (uint)Iommufd.Number, 0);
        Errno errno = Kernel.Ioctl(card, VfioRequests.DeviceBindIommufd.Value, bind).Errno;
        deviceId = DeviceFixture.Word(bind, 12);
        return errno;
    }

    public int OpenBound(int index)
    {
        int card = Open(index);
        Assert.Equal(Errno.Success, Bind(card, out _));
        return card;
    }

    public Errno Call<T>(ref T command)
        where T : unmanaged, IIoctlArgument<T> =>
        Kernel.Ioctl(Iommufd, ref command).Errno;

    public Errno Ioctl(int fd, IoctlRequest request, byte[] argument) =>
        Kernel.Ioctl(fd, request.Value, argument).Errno;

    public Errno Feature(
        int card, VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation, byte[]? payload = null)
    {
        payload ??= [];
        byte[] argument =
            [.. DeviceFixture.Words((uint)(8 + payload.Length), (uint)operation | (uint)index), .. payload];
        Errno errno = Ioctl(card, VfioRequests.DeviceFeature, argument);
        argument.AsSpan(8).CopyTo(payload);
        return errno;
    }

    public (Errno Errno, int DataFd) SetState(int card, VfioDeviceMigState state)
    {
        byte[] payload = DeviceFixture.Words((uint)state, 12345);
        Errno errno = Feature(card, VfioDeviceFeatureIndex.MigDeviceState, Set, payload);
        return (errno, (int)DeviceFixture.Word(payload, 4));
    }

    public int Stream(int card, VfioDeviceMigState state)
    {
        (Errno errno, int fd) = SetState(card, state);
        Assert.Equal(Errno.Success, errno);
        Assert.True(fd >= 0);
        return fd;
    }

    public VfioDeviceMigState State(int card)
    {
        byte[] payload = DeviceFixture.Words(99, 99);
        Assert.Equal(Errno.Success, Feature(card, VfioDeviceFeatureIndex.MigDeviceState, Get, payload));
        return (VfioDeviceMigState)DeviceFixture.Word(payload, 0);
    }

    public byte[] ReadAll(int stream)
    {
        var bytes = new byte[1000];
        int length = 0;
        while (true)
        {
            SyscallResult read = Kernel.Read(stream, bytes.AsSpan(length, Math.Min(7, bytes.Length - length)));
            Assert.True(read.Succeeded);
            if (read.Value == 0)
                return bytes[..length];
            length += (int)read.Value;
        }
    }

    public byte Register(int card, int port, int register)
    {
        Span<byte> value = stackalloc byte[1];
        Assert.Equal(1, Kernel.Pread(card, value, ((ulong)port << 40) + (ulong)register).Value);
        return value[0];
    }

    public void Register(int card, int port, int register, byte value) =>
        Assert.Equal(1, Kernel.Pwrite(card, [value], ((ulong)port << 40) + (ulong)register).Value);

    public Errno SetIrqs(int card, VfioIrqSetFlags flags, uint index, uint start = 0, uint count = 1,
        byte[]? data = null)
    {
        data ??= [];
        byte[] argument =
            [.. DeviceFixture.Words((uint)(20 + data.Length), (uint)flags, index, start, count), .. data];
        return Ioctl(card, VfioRequests.DeviceSetIrqs, argument);
    }

    public int Eventfd() => (int)_host.Eventfd(0, EventfdFlags.NonBlocking | EventfdFlags.CloseOnExec).Value;

    /// <summary>How often it was signalled since the last look.</summary>
    public ulong Signals(int eventfd)
    {
        Span<byte> counter = stackalloc byte[8];
        SyscallResult read = _host.Read(eventfd, counter);
        return read.Succeeded ? BinaryPrimitives.ReadUInt64LittleEndian(counter) : 0;
    }

    public void Dispose()
    {
        Iommufd.Dispose();
        Kernel.Dispose();
        SoftKernelUsage usage = Kernel.CountOpen();
        Assert.True(usage.IsZero, usage.ToString());
    }
}
