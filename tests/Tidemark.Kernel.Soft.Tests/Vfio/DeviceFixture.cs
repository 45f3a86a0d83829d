using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Vfio;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

/// <summary>A device, its file and the bytes that a client would send it.</summary>
internal sealed class DeviceFixture
{
    public const VfioMigrationFlags All =
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;

    public DeviceFixture(VfioMigrationFlags migration = All, bool dmaLogging = true, bool bound = true)
    {
        Device = new PciVfioDevice("0000:01:02.3", Model, Port, new VfioAbilities(migration, dmaLogging), Host);
        File = Device.Open();
        if (!bound)
            return;
        Assert.Equal(Errno.Success, Bind(File));
        Model.Calls.Clear();
    }

    public FakeDeviceModel Model { get; } = new();

    public FakeDmaPort Port { get; } = new();

    public FakeVfioHost Host { get; } = new();

    public SoftVfioDevice Device { get; }

    public SoftFile File { get; }

    public VfioDeviceMigState State => GetState().State;

    public static byte[] Words(params uint[] words)
    {
        var bytes = new byte[words.Length * 4];
        for (int index = 0; index < words.Length; index++)
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(index * 4), words[index]);
        return bytes;
    }

    public static byte[] Longs(params ulong[] longs)
    {
        var bytes = new byte[longs.Length * 8];
        for (int index = 0; index < longs.Length; index++)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(index * 8), longs[index]);
        return bytes;
    }

    public static uint Word(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    public static ulong Long(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);

    public static Errno Bind(SoftFile file, int iommufd = FakeVfioHost.Iommufd) =>
        file.Ioctl(VfioRequests.DeviceBindIommufd.Value, Words(16, 0, (uint)iommufd, 0)).Errno;

    public Errno Ioctl(IoctlRequest request, byte[] argument) => File.Ioctl(request.Value, argument).Errno;

    /// <summary>DEVICE_FEATURE; the payload is read and written in place.</summary>
    public Errno Feature(VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation, byte[]? payload = null)
    {
        payload ??= [];
        byte[] argument = [.. Words((uint)(8 + payload.Length), (uint)operation | (uint)index), .. payload];
        Errno errno = Ioctl(VfioRequests.DeviceFeature, argument);
        argument.AsSpan(8).CopyTo(payload);
        return errno;
    }

    public (Errno Errno, int DataFd) SetState(VfioDeviceMigState state)
    {
        byte[] payload = Words((uint)state, 12345);
        Errno errno = Feature(VfioDeviceFeatureIndex.MigDeviceState, Set, payload);
        Assert.Equal((uint)state, Word(payload, 0));
        return (errno, (int)Word(payload, 4));
    }

    public (VfioDeviceMigState State, int DataFd) GetState()
    {
        byte[] payload = Words(99, 99);
        Assert.Equal(Errno.Success, Feature(VfioDeviceFeatureIndex.MigDeviceState, Get, payload));
        return ((VfioDeviceMigState)Word(payload, 0), (int)Word(payload, 4));
    }

    /// <summary>Goes to a state whose arc opens a stream, and answers the stream.</summary>
    public SoftFile Stream(VfioDeviceMigState state)
    {
        (Errno errno, int dataFd) = SetState(state);
        Assert.Equal(Errno.Success, errno);
        return Host.Files[dataFd];
    }
}
