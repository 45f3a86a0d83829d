using Tidemark.Abi;
using Tidemark.Kernel.Soft.Tests.Vfio;
using static Tidemark.Abi.VfioDeviceFeatureFlags;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Kernel.Soft.Tests.Mtty;

public sealed class MttyMigrationTests : IDisposable
{
    private readonly MttyFixture _mtty = new();

    public void Dispose() => _mtty.Dispose();

    [Fact]
    public void It_has_every_state_and_ninety_six_bytes()
    {
        byte[] answer = new byte[8];
        Assert.Equal(Errno.Success, _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.Migration, Get, answer));
        Assert.Equal(7UL, DeviceFixture.Long(answer, 0));
        foreach (VfioDeviceMigState state in new[] { Running, RunningP2P, Stop, StopCopy, Stop, Resuming })
        {
            _mtty.SetState(_mtty.Card, state);
            Assert.Equal(Errno.Success, _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.MigDataSize, Get, answer));
            Assert.Equal(96UL, DeviceFixture.Long(answer, 0));
        }
    }

    [Fact]
    public void The_stream_is_a_header_and_a_record_for_each_port()
    {
        _mtty.Register(_mtty.Card, 0, MttyFixture.Scratch, 0x5A);
        _mtty.Register(_mtty.Card, 1, MttyFixture.Scratch, 0xA5);
        int stream = _mtty.Stream(_mtty.Card, StopCopy);
        byte[] bytes = _mtty.ReadAll(stream);
        Assert.Equal(MttyFixture.StreamLength, bytes.Length);
        Assert.Equal(MttyFixture.Header, bytes[..MttyFixture.HeaderLength]);
        Assert.Equal(0x5A, bytes[24 + 7]);
        Assert.Equal(0xA5, bytes[24 + 36 + 7]);
        Assert.Equal(16, bytes[24 + 33]);
    }

    [Fact]
    public void In_precopy_there_is_the_header_and_then_nothing_which_is_no_error()
    {
        int stream = _mtty.Stream(_mtty.Card, PreCopy);
        Assert.Equal((Errno.Success, 24UL, 0UL), Precopy(stream));
        Assert.Equal(10, _mtty.Kernel.Read(stream, new byte[10]).Value);
        Assert.Equal((Errno.Success, 14UL, 0UL), Precopy(stream));
        Assert.Equal(14, _mtty.Kernel.Read(stream, new byte[100]).Value);
        Assert.Equal(SyscallResult.Ok(), _mtty.Kernel.Read(stream, new byte[100]));
        // The same file goes on with the records.
        Assert.Equal((Errno.Success, -1), _mtty.SetState(_mtty.Card, StopCopy));
        Assert.Equal(Errno.EINVAL, Precopy(stream).Errno);
        Assert.Equal(72, _mtty.ReadAll(stream).Length);
        Assert.Equal((Errno.Success, -1), _mtty.SetState(_mtty.Card, Stop));
        Assert.Equal(Errno.ENODEV, _mtty.Kernel.Read(stream, new byte[1]).Errno);
        // ORDER: the state is looked at before the file.
        Assert.Equal(Errno.EINVAL, Precopy(stream).Errno);
        int next = _mtty.Stream(_mtty.Card, PreCopy);
        Assert.Equal(Errno.ENODEV, Precopy(stream).Errno);
        Assert.Equal(Errno.Success, Precopy(next).Errno);
    }

    [Fact]
    public void Precopy_flags_go_back_as_they_came_until_version_two()
    {
        int stream = _mtty.Stream(_mtty.Card, PreCopy);
        byte[] info = [.. DeviceFixture.Words(24, 0xFFFF), .. new byte[16]];
        Assert.Equal(Errno.Success, _mtty.Ioctl(stream, VfioRequests.MigGetPrecopyInfo, info));
        Assert.Equal(0xFFFFU, DeviceFixture.Word(info, 4));
        Assert.Equal(Errno.Success, _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set));
        Assert.Equal(Errno.Success, _mtty.Ioctl(stream, VfioRequests.MigGetPrecopyInfo, info));
        Assert.Equal(0U, DeviceFixture.Word(info, 4));
    }

    [Fact]
    public void State_moves_from_card_to_card()
    {
        _mtty.Register(_mtty.Card, 1, MttyFixture.Scratch, 0x42);
        byte[] bytes = _mtty.ReadAll(_mtty.Stream(_mtty.Card, StopCopy));
        int other = _mtty.OpenBound(1);
        int stream = _mtty.Stream(other, Resuming);
        foreach (byte single in bytes)
            Assert.Equal(1, _mtty.Kernel.Write(stream, [single]).Value);
        Assert.Equal((Errno.Success, -1), _mtty.SetState(other, Running));
        Assert.Equal(0x42, _mtty.Register(other, 1, MttyFixture.Scratch));
        Assert.Equal(Errno.ENODEV, _mtty.Kernel.Write(stream, []).Errno);
    }

    [Fact]
    public void A_short_stream_is_refused_and_can_go_on()
    {
        byte[] bytes = _mtty.ReadAll(_mtty.Stream(_mtty.Card, StopCopy));
        int other = _mtty.OpenBound(1);
        int stream = _mtty.Stream(other, Resuming);
        Assert.Equal(95, _mtty.Kernel.Write(stream, bytes.AsSpan(0, 95)).Value);
        Assert.Equal((Errno.EINVAL, -1), _mtty.SetState(other, Stop));
        Assert.Equal(Resuming, _mtty.State(other));
        Assert.Equal(Errno.ENOMEM, _mtty.Kernel.Write(stream, new byte[2]).Errno);
        Assert.Equal(1, _mtty.Kernel.Write(stream, bytes.AsSpan(95)).Value);
        Assert.Equal((Errno.Success, -1), _mtty.SetState(other, Stop));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(8)]
    [InlineData(12)]
    [InlineData(16)]
    [InlineData(20)]
    public void A_bad_header_is_EFAULT_once_and_its_bytes_count(int at)
    {
        byte[] bytes = [.. MttyFixture.Header, .. new byte[72]];
        bytes[at] ^= 0x80;
        bytes[24 + 7] = 0x77;
        int stream = _mtty.Stream(_mtty.Card, Resuming);
        Assert.Equal(Errno.EFAULT, _mtty.Kernel.Write(stream, bytes.AsSpan(0, 40)).Errno);
        Assert.Equal(56, _mtty.Kernel.Write(stream, bytes.AsSpan(40)).Value);
        Assert.Equal((Errno.Success, -1), _mtty.SetState(_mtty.Card, Stop));
        Assert.Equal(0x77, _mtty.Register(_mtty.Card, 0, MttyFixture.Scratch));
    }

    [Fact]
    public void A_stream_of_another_number_of_ports_is_refused()
    {
        int single = _mtty.OpenBound(2);
        byte[] bytes = _mtty.ReadAll(_mtty.Stream(single, StopCopy));
        Assert.Equal(60, bytes.Length);
        int stream = _mtty.Stream(_mtty.Card, Resuming);
        Assert.Equal(Errno.EFAULT, _mtty.Kernel.Write(stream, bytes).Errno);
    }

    [Fact]
    public void Reset_runs_and_ends_files_but_leaves_registers()
    {
        _mtty.Register(_mtty.Card, 0, MttyFixture.Scratch, 0x11);
        int saving = _mtty.Stream(_mtty.Card, PreCopyP2P);
        Assert.True(_mtty.Kernel.IoctlValue(_mtty.Card, VfioRequests.DeviceReset.Value, 0).Succeeded);
        Assert.Equal(Running, _mtty.State(_mtty.Card));
        Assert.Equal(Errno.ENODEV, _mtty.Kernel.Read(saving, new byte[1]).Errno);
        Assert.Equal(0x11, _mtty.Register(_mtty.Card, 0, MttyFixture.Scratch));
    }

    [Fact]
    public void A_close_ends_files_and_leaves_the_state()
    {
        int saving = _mtty.Stream(_mtty.Card, PreCopyP2P);
        Assert.Equal(Errno.Success, _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set));
        _mtty.Kernel.Close(_mtty.Card);
        Assert.Equal(Errno.ENODEV, _mtty.Kernel.Read(saving, new byte[1]).Errno);
        int again = _mtty.OpenBound(0);
        Assert.Equal(PreCopyP2P, _mtty.State(again));
        // The file that would go on is gone: this arc opens one of its own then.
        int stream = _mtty.Stream(again, StopCopy);
        Assert.Equal(96, _mtty.ReadAll(stream).Length);
        _mtty.SetState(again, Running);
        int next = _mtty.Stream(again, PreCopy);
        byte[] info = [.. DeviceFixture.Words(24, 5), .. new byte[16]];
        Assert.Equal(Errno.Success, _mtty.Ioctl(next, VfioRequests.MigGetPrecopyInfo, info));
        Assert.Equal(5U, DeviceFixture.Word(info, 4));
    }

    [Fact]
    public void Streams_have_no_position_and_one_direction()
    {
        int saving = _mtty.Stream(_mtty.Card, PreCopy);
        Assert.Equal(Errno.EBADF, _mtty.Kernel.Write(saving, new byte[1]).Errno);
        Assert.Equal(Errno.ESPIPE, _mtty.Kernel.Pread(saving, new byte[1], 0).Errno);
        Assert.Equal(Errno.ENOTTY, _mtty.Ioctl(saving, VfioRequests.DeviceReset, []));
        int resuming = _mtty.Stream(_mtty.Card, Resuming);
        Assert.Equal(Errno.EBADF, _mtty.Kernel.Read(resuming, new byte[1]).Errno);
        Assert.Equal(Errno.ENOTTY, _mtty.Ioctl(resuming, VfioRequests.MigGetPrecopyInfo, new byte[24]));
        Assert.Equal(Errno.ENODEV, _mtty.Kernel.Read(saving, new byte[1]).Errno);
    }

    [Fact]
    public void Its_dma_log_is_always_clean_and_needs_no_start()
    {
        byte[] report = DeviceFixture.Longs(0, 0x10000, 4096, 0xDEAD_0000);
        Assert.Equal(Errno.Success,
            _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.DmaLoggingReport, Get, report));
        Assert.Equal(Errno.EINVAL, _mtty.Feature(
            _mtty.Card, VfioDeviceFeatureIndex.DmaLoggingReport, Get, DeviceFixture.Longs(0, 0x10000, 2048, 0)));
        Assert.Equal(Errno.EINVAL, _mtty.Feature(
            _mtty.Card, VfioDeviceFeatureIndex.DmaLoggingStart, Set, DeviceFixture.Longs(4096, 0, 0)));
        Assert.Equal(Errno.EFAULT, _mtty.Feature(
            _mtty.Card, VfioDeviceFeatureIndex.DmaLoggingStart, Set, DeviceFixture.Longs(4096, 1, 0x10)));
        Assert.Equal(Errno.Success, _mtty.Feature(_mtty.Card, VfioDeviceFeatureIndex.DmaLoggingStop, Set));
    }

    private (Errno Errno, ulong Initial, ulong Dirty) Precopy(int stream)
    {
        byte[] info = [.. DeviceFixture.Words(24, 0), .. new byte[16]];
        Errno errno = _mtty.Ioctl(stream, VfioRequests.MigGetPrecopyInfo, info);
        return (errno, DeviceFixture.Long(info, 8), DeviceFixture.Long(info, 16));
    }
}
