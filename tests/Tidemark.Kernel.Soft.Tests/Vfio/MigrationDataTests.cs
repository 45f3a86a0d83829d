using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class MigrationDataTests
{
    [Fact]
    public void A_stop_copy_stream_gives_the_final_state_and_then_ends()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(StopCopy);
        Assert.Equal("FIN", Read(stream, 3));
        Assert.Equal("AL", Read(stream, 10));
        Assert.Equal(SyscallResult.Ok(), stream.Read(new byte[4]));
        Assert.Equal(SyscallResult.Ok(), stream.Read(new byte[4]));
    }

    [Fact]
    public void A_pre_copy_stream_continues_under_the_same_descriptor()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(PreCopy);
        Assert.Equal("INITIAL", Read(stream, 100));
        Assert.Equal(SyscallResult.Fail(Errno.ENOMSG), stream.Read(new byte[4]));
        fixture.Model.Changes.Enqueue("change"u8.ToArray());
        Assert.Equal("chan", Read(stream, 4));
        Assert.Equal((Errno.Success, -1), fixture.SetState(PreCopyP2P));
        Assert.Equal((Errno.Success, -1), fixture.SetState(StopCopy));
        Assert.Equal("geFINAL", Read(stream, 100));
        Assert.Equal(SyscallResult.Ok(), stream.Read(new byte[4]));
    }

    [Fact]
    public void Nothing_is_lost_when_pre_copy_was_not_read()
    {
        var fixture = new DeviceFixture(VfioMigrationFlags.StopCopy | VfioMigrationFlags.PreCopy);
        SoftFile stream = fixture.Stream(PreCopy);
        Assert.Equal((Errno.Success, -1), fixture.SetState(StopCopy));
        Assert.Equal("INITIALFINAL", Read(stream, 100));
    }

    [Fact]
    public void A_stop_copy_after_an_abandoned_pre_copy_is_complete_by_itself()
    {
        var fixture = new DeviceFixture();
        fixture.Stream(PreCopy);
        fixture.SetState(Running);
        SoftFile stream = fixture.Stream(StopCopy);
        Assert.Equal("INITIALFINAL", Read(stream, 100));
    }

    [Theory]
    [InlineData(PreCopy, Running)]
    [InlineData(PreCopyP2P, RunningP2P)]
    [InlineData(StopCopy, Stop)]
    public void A_saving_stream_answers_ENODEV_after_its_session(VfioDeviceMigState during, VfioDeviceMigState after)
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(during);
        fixture.SetState(after);
        Assert.Equal(SyscallResult.Fail(Errno.ENODEV), stream.Read(new byte[4]));
    }

    [Fact]
    public void Streams_have_one_direction_and_no_position()
    {
        SoftFile saving = new DeviceFixture().Stream(StopCopy);
        Assert.Equal(Errno.EBADF, saving.Write(new byte[1]).Errno);
        Assert.Equal(Errno.ESPIPE, saving.Pread(new byte[1], 0).Errno);
        SoftFile resuming = new DeviceFixture().Stream(Resuming);
        Assert.Equal(Errno.EBADF, resuming.Read(new byte[1]).Errno);
        Assert.Equal(Errno.ESPIPE, resuming.Pwrite(new byte[1], 0).Errno);
        Assert.Equal(Errno.ENOTTY, resuming.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, new byte[24]).Errno);
    }

    [Fact]
    public void A_resuming_stream_is_loaded_when_the_device_stops()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(Resuming);
        Assert.Equal(4, stream.Write("some"u8).Value);
        Assert.Equal(4, stream.Write("more"u8).Value);
        Assert.Null(fixture.Model.Loaded);
        Assert.Equal((Errno.Success, -1), fixture.SetState(Stop));
        Assert.Equal("somemore"u8.ToArray(), fixture.Model.Loaded);
        Assert.Equal(Errno.ENODEV, stream.Write("x"u8).Errno);
    }

    [Fact]
    public void A_refused_stream_leaves_the_device_resuming_and_the_stream_usable()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(Resuming);
        stream.Write("half"u8);
        fixture.Model.LoadAnswer = Errno.EINVAL;
        Assert.Equal((Errno.EINVAL, -1), fixture.SetState(Running));
        Assert.Equal((Resuming, -1), fixture.GetState());
        stream.Write("rest"u8);
        fixture.Model.LoadAnswer = Errno.Success;
        Assert.Equal(Errno.Success, fixture.SetState(Running).Errno);
        Assert.Equal("halfrest"u8.ToArray(), fixture.Model.Loaded);
    }

    [Fact]
    public void A_resuming_stream_takes_the_models_maximum_and_not_a_byte_more()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(Resuming);
        Assert.Equal(Errno.ENOMEM, stream.Write(new byte[65]).Errno);
        Assert.Equal(64, stream.Write(new byte[64]).Value);
        Assert.Equal(Errno.ENOMEM, stream.Write(new byte[1]).Errno);
        fixture.SetState(Stop);
        Assert.Equal(64, fixture.Model.Loaded!.Length);
        // The length is looked at before the session.
        Assert.Equal(Errno.ENOMEM, stream.Write(new byte[65]).Errno);
        Assert.Equal(Errno.ENODEV, stream.Write(new byte[64]).Errno);
    }

    [Fact]
    public void Reset_runs_the_device_and_ends_its_sessions()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(StopCopy);
        Assert.Equal(Errno.Success, fixture.File.IoctlValue(VfioRequests.DeviceReset.Value, 0).Errno);
        Assert.Equal((Running, -1), fixture.GetState());
        Assert.Equal(Errno.ENODEV, stream.Read(new byte[4]).Errno);
        Assert.Contains("Reset", fixture.Model.Calls);
    }

    [Fact]
    public void Closing_the_device_ends_its_sessions()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(PreCopy);
        fixture.File.Release();
        Assert.Equal(Errno.ENODEV, stream.Read(new byte[4]).Errno);
    }

    [Fact]
    public void Closing_a_stream_does_not_end_its_session()
    {
        var fixture = new DeviceFixture();
        fixture.Stream(PreCopy).Release();
        Assert.Equal(PreCopy, fixture.State);
        Assert.Equal((Errno.Success, -1), fixture.SetState(StopCopy));

        var destination = new DeviceFixture();
        SoftFile stream = destination.Stream(Resuming);
        stream.Write("all"u8);
        stream.Release();
        Assert.Equal(Errno.Success, destination.SetState(Stop).Errno);
        Assert.Equal("all"u8.ToArray(), destination.Model.Loaded);
    }

    [Fact]
    public void Without_a_free_descriptor_the_request_fails_and_the_state_stays()
    {
        var fixture = new DeviceFixture();
        fixture.Host.TableFull = true;
        Assert.Equal((Errno.EMFILE, -1), fixture.SetState(StopCopy));
        Assert.Equal((StopCopy, -1), fixture.GetState());
        Assert.Empty(fixture.Host.Files);
    }

    [Theory]
    [InlineData(VfioMigrationFlags.StopCopy, Running, Stop, "Quiesce Freeze SaveFinal")]
    [InlineData(DeviceFixture.All, PreCopyP2P, PreCopyP2P, "Freeze SaveFinal Unfreeze")]
    [InlineData(DeviceFixture.All, PreCopy, PreCopyP2P, "Quiesce Freeze SaveFinal Unfreeze")]
    [InlineData(VfioMigrationFlags.StopCopy | VfioMigrationFlags.PreCopy, PreCopy, PreCopy,
        "Quiesce Freeze SaveFinal Unfreeze Run")]
    public void A_device_that_can_not_save_stays_where_it_got_to(
        VfioMigrationFlags flags, VfioDeviceMigState from, VfioDeviceMigState stays, string calls)
    {
        var fixture = new DeviceFixture(flags);
        fixture.SetState(from);
        fixture.Model.Calls.Clear();
        byte[] final = fixture.Model.Final;
        fixture.Model.Final = [];
        Assert.Equal((Errno.EIO, -1), fixture.SetState(StopCopy));
        Assert.Equal((stays, -1), fixture.GetState());
        Assert.Equal(calls, string.Join(' ', fixture.Model.Calls));
        fixture.Model.Final = final;
        Assert.Equal(Errno.Success, fixture.SetState(StopCopy).Errno);
    }

    [Fact]
    public void The_same_state_again_gives_no_second_descriptor()
    {
        var fixture = new DeviceFixture();
        fixture.Stream(StopCopy);
        Assert.Equal((Errno.Success, -1), fixture.SetState(StopCopy));
        Assert.Single(fixture.Host.Files);
    }

    [Fact]
    public void Precopy_info_counts_what_can_be_read()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(PreCopy);
        Assert.Equal((7UL, 0UL), Info(stream));
        Read(stream, 5);
        Assert.Equal((2UL, 0UL), Info(stream));
        Read(stream, 5);
        fixture.Model.Changes.Enqueue(new byte[30]);
        fixture.Model.Changes.Enqueue(new byte[9]);
        Assert.Equal((0UL, 30UL), Info(stream));
        Read(stream, 30);
        Assert.Equal((0UL, 9UL), Info(stream));
    }

    [Fact]
    public void Precopy_info_is_refused_in_this_order()
    {
        var fixture = new DeviceFixture();
        SoftFile old = fixture.Stream(PreCopy);
        Assert.Equal(Errno.ENOTTY, old.Ioctl(VfioRequests.DeviceReset.Value, new byte[24]).Errno);
        Assert.Equal(Errno.EFAULT, old.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, new byte[23]).Errno);
        Assert.Equal(Errno.EINVAL, Info(old, argsz: 23));
        fixture.SetState(Running);
        Assert.Equal(Errno.EINVAL, Info(old, argsz: 24));
        SoftFile stream = fixture.Stream(PreCopy);
        Assert.Equal(Errno.ENODEV, Info(old, argsz: 24));
        Assert.Equal(Errno.Success, Info(stream, argsz: 24));
        fixture.SetState(StopCopy);
        Assert.Equal(Errno.EINVAL, Info(stream, argsz: 24));
    }

    [Fact]
    public void Flags_of_precopy_info_come_back_as_sent_until_version_2_is_asked_for()
    {
        var fixture = new DeviceFixture();
        SoftFile stream = fixture.Stream(PreCopy);
        byte[] info = DeviceFixture.Words(24, 0xABCD, 0, 0, 0, 0);
        stream.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, info);
        Assert.Equal(0xABCDu, DeviceFixture.Word(info, 4));
        Assert.Equal(Errno.Success,
            fixture.Feature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, VfioDeviceFeatureFlags.Set));
        stream.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, info);
        Assert.Equal(0u, DeviceFixture.Word(info, 4));
    }

    [Fact]
    public void A_new_set_up_is_initial_again_for_who_asked_for_version_2()
    {
        var fixture = new DeviceFixture();
        fixture.Feature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, VfioDeviceFeatureFlags.Set);
        SoftFile stream = fixture.Stream(PreCopy);
        Assert.Equal((7UL, 0UL, 0u), Told());
        Read(stream, 7);
        Assert.Equal((0UL, 0UL, 0u), Told());
        fixture.Model.Changes.Enqueue(new byte[30]);
        Assert.Equal((30UL, 0UL, 1u), Told());
        // Told once; what it told of counts down.
        Assert.Equal((30UL, 0UL, 0u), Told());
        Read(stream, 29);
        Assert.Equal((1UL, 0UL, 0u), Told());
        fixture.Model.Changes.Enqueue(new byte[5]);
        Read(stream, 1);
        // Found by a read, and told by the next question all the same.
        Read(stream, 2);
        Assert.Equal((3UL, 0UL, 1u), Told());

        (ulong Initial, ulong Dirty, uint Flags) Told()
        {
            byte[] info = DeviceFixture.Words(24, 0xFFFF, 0, 0, 0, 0);
            Assert.Equal(Errno.Success, stream.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, info).Errno);
            return (DeviceFixture.Long(info, 8), DeviceFixture.Long(info, 16), DeviceFixture.Word(info, 4));
        }
    }

    private static string Read(SoftFile stream, int count)
    {
        var buffer = new byte[count];
        SyscallResult result = stream.Read(buffer);
        Assert.Equal(Errno.Success, result.Errno);
        return Encoding.ASCII.GetString(buffer, 0, (int)result.Value);
    }

    private static Errno Info(SoftFile stream, uint argsz) =>
        stream.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, DeviceFixture.Words(argsz, 0, 0, 0, 0, 0)).Errno;

    private static (ulong Initial, ulong Dirty) Info(SoftFile stream)
    {
        byte[] info = DeviceFixture.Words(24, 0, 0, 0, 0, 0);
        Assert.Equal(Errno.Success, stream.Ioctl(VfioRequests.MigGetPrecopyInfo.Value, info).Errno);
        return (DeviceFixture.Long(info, 8), DeviceFixture.Long(info, 16));
    }
}
