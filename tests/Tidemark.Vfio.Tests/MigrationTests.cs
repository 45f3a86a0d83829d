using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Migration;
using static Tidemark.Abi.VfioDeviceMigState;

namespace Tidemark.Vfio.Tests;

/// <summary>Migration states, streams, and what happens when a change fails.</summary>
public sealed class MigrationTests
{
    private const VfioMigrationFlags All =
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;

    private readonly ScriptedKernel _kernel = new();

    [Theory]
    [InlineData(VfioMigrationFlags.None, "ENOTTY")]
    [InlineData(VfioMigrationFlags.P2P, "no STOP_COPY")]
    public void A_device_that_can_not_be_saved_is_a_value_with_a_reason(VfioMigrationFlags abilities, string reason)
    {
        _kernel.ExpectAbilities(abilities);
        Assert.Null(VfioMigration.Create(Device(), out string? lack));
        Assert.Contains(reason, lack, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_with_everything_is_saved_through_one_stream()
    {
        VfioMigratable part = Part(All);
        var buffer = new byte[16];
        _kernel.ExpectState(PreCopy, dataFd: 70);
        part.BeginSave();
        _kernel.ExpectStateRead(Errno.Success, 1, 2, 3);
        Assert.Equal(3, part.ReadState(buffer));
        Assert.Equal([1, 2, 3], buffer[..3]);
        _kernel.ExpectStateRead(Errno.ENOMSG);
        Assert.Equal(0, part.ReadState(buffer));
        _kernel.ExpectState(PreCopyP2P);
        part.EnterP2P();
        _kernel.ExpectState(StopCopy);
        part.Stop();
        _kernel.ExpectStateRead(Errno.Success, 4);
        Assert.Equal(1, part.ReadState(buffer));
        _kernel.ExpectStateRead(Errno.Success);
        Assert.Equal(0, part.ReadState(buffer));
        Assert.Equal(0, part.ReadState(buffer));
        Assert.DoesNotContain("close 70", _kernel.Log);
        _kernel.ExpectState(Stop);
        part.EndSave();
        Assert.Contains("close 70", _kernel.Log);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_without_extras_is_stopped_first_and_saved_when_its_state_is_wanted()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy);
        part.BeginSave();
        Assert.Equal(0, part.ReadState(new byte[4]));
        part.EnterP2P();
        _kernel.ExpectState(Stop);
        part.Stop();
        _kernel.ExpectState(StopCopy, dataFd: 70);
        _kernel.ExpectStateRead(Errno.Success);
        Assert.Equal(0, part.ReadState(new byte[4]));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_with_P2P_but_no_PRE_COPY_passes_through_RUNNING_P2P()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P);
        part.BeginSave();
        _kernel.ExpectState(RunningP2P);
        part.EnterP2P();
        _kernel.ExpectState(Stop);
        part.Stop();
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Nothing_to_read_after_the_stop_is_not_taken_for_the_end()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy);
        _kernel.ExpectState(Stop);
        part.Stop();
        _kernel.ExpectState(StopCopy, dataFd: 70);
        _kernel.ExpectStateRead(Errno.ENOMSG);
        Assert.Equal(Errno.ENOMSG, Assert.Throws<KernelException>(() => part.ReadState(new byte[4])).Errno);
    }

    [Fact]
    public void A_failed_change_ends_in_the_recovery_state()
    {
        VfioMigratable part = Part(All);
        _kernel.ExpectState(PreCopy, Errno.EIO);
        _kernel.ExpectState(Running);
        KernelException failure = Assert.Throws<KernelException>(part.BeginSave);
        Assert.Equal(Errno.EIO, failure.Errno);
        Assert.Contains("brought to Running", failure.Message, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_that_can_not_recover_is_reset_and_one_that_can_not_be_reset_is_called_lost()
    {
        VfioMigratable part = Part(All);
        _kernel.ExpectState(PreCopy, Errno.EIO);
        _kernel.ExpectState(Running, Errno.EINVAL);
        _kernel.ExpectReset();
        Assert.Contains("was reset", Assert.Throws<KernelException>(part.BeginSave).Message, StringComparison.Ordinal);

        _kernel.ExpectState(Running, Errno.EINVAL);
        _kernel.ExpectReset(Errno.EIO);
        Assert.Contains("unknown", Assert.Throws<KernelException>(part.Recover).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_cancelled_save_runs_again_without_a_stream_and_can_be_begun_again()
    {
        VfioMigratable part = Part(All);
        for (int round = 0; round < 2; round++)
        {
            _kernel.ExpectState(PreCopy, dataFd: 70 + round);
            part.BeginSave();
            _kernel.ExpectState(PreCopyP2P);
            part.EnterP2P();
            _kernel.ExpectState(StopCopy);
            part.Stop();
            _kernel.ExpectState(Running);
            part.Recover();
        }

        Assert.Equal(2, _kernel.Log.Count(call => call.StartsWith("close 7", StringComparison.Ordinal)));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Ending_a_save_never_resets_the_stopped_device()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy);
        _kernel.ExpectState(Stop);
        part.Stop();
        _kernel.ExpectState(Stop, Errno.EIO);
        Assert.Throws<KernelException>(part.EndSave);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void State_is_loaded_in_pieces_checked_and_started()
    {
        VfioMigratable part = Part(All);
        part.BeginLoad();
        _kernel.ExpectState(Resuming, dataFd: 71);
        var written = new List<byte>();
        for (int call = 0; call < 2; call++)
        {
            _kernel.ExpectWrite((_, bytes) =>
            {
                written.AddRange(bytes);
                return Errno.Success;
            });
        }

        part.WriteState([1, 2]);
        part.WriteState([3]);
        _kernel.ExpectState(Stop);
        part.EndLoad();
        Assert.Contains("close 71", _kernel.Log);
        _kernel.ExpectState(RunningP2P);
        _kernel.ExpectState(Running);
        part.PrepareStart();
        part.Start();
        Assert.Equal([1, 2, 3], written);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_with_empty_state_is_not_put_into_RESUMING()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy);
        part.BeginLoad();
        part.WriteState([]);
        _kernel.ExpectState(Stop);
        part.EndLoad();
        _kernel.ExpectState(Running);
        part.PrepareStart();
        part.Start();
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_that_refuses_its_state_is_reset()
    {
        VfioMigratable part = Part(VfioMigrationFlags.StopCopy);
        part.BeginLoad();
        _kernel.ExpectState(Resuming, dataFd: 71);
        _kernel.ExpectWrite((_, _) => Errno.Success);
        part.WriteState([1]);
        _kernel.ExpectState(Stop, Errno.EINVAL);
        _kernel.ExpectReset();
        Assert.Equal(Errno.EINVAL, Assert.Throws<KernelException>(part.EndLoad).Errno);
        Assert.Contains("close 71", _kernel.Log);
    }

    [Fact]
    public void The_estimate_is_null_where_the_device_can_not_tell()
    {
        VfioMigratable part = Part(All);
        _kernel.ExpectState(PreCopy, dataFd: 70);
        part.BeginSave();
        ExpectDataSize(1000, Errno.Success);
        _kernel.Expect(VfioRequests.MigGetPrecopyInfo, (fd, argument) =>
        {
            Assert.Equal(70, fd);
            BinaryPrimitives.WriteUInt64LittleEndian(argument[8..], 24);
            BinaryPrimitives.WriteUInt64LittleEndian(argument[16..], 7);
            return Errno.Success;
        });
        Assert.Equal(new StateEstimate(24, 7, 1000), part.Estimate());
        _kernel.ExpectState(StopCopy);
        part.Stop();
        ExpectDataSize(0, Errno.ENODEV);
        Assert.Equal(new StateEstimate(0, 0, null), part.Estimate());
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_that_may_begin_anew_is_asked_to_say_so_and_its_initial_bytes_come_back()
    {
        // UAPI: VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 lets the device set VFIO_PRECOPY_INFO_REINIT.
        int asked = 0;
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.Migration, VfioDeviceFeatureFlags.Get, (_, payload) =>
        {
            BinaryPrimitives.WriteUInt64LittleEndian(payload, (ulong)All);
            return Errno.Success;
        });
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, VfioDeviceFeatureFlags.Set, (_, _) =>
        {
            asked++;
            return Errno.Success;
        });
        var part = new VfioMigratable("device20", VfioMigration.Create(Device(), out _)!);
        Assert.Equal(1, asked);
        _kernel.ExpectState(PreCopy, dataFd: 70);
        part.BeginSave();
        foreach ((VfioPrecopyInfoFlags flags, ulong initial) in ((VfioPrecopyInfoFlags, ulong)[])[(0, 24), (0, 0), (VfioPrecopyInfoFlags.Reinit, 48), (0, 0)])
        {
            ExpectDataSize(1000, Errno.Success);
            _kernel.Expect(VfioRequests.MigGetPrecopyInfo, (_, argument) =>
            {
                argument.Write32(4, (uint)flags);
                BinaryPrimitives.WriteUInt64LittleEndian(argument[8..], initial);
                return Errno.Success;
            });
            Assert.Equal(new StateEstimate(initial, 0, 1000), part.Estimate());
        }

        Assert.Equal(0, _kernel.Remaining);
    }

    private void ExpectDataSize(ulong size, Errno errno) =>
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.MigDataSize, VfioDeviceFeatureFlags.Get, (_, payload) =>
        {
            BinaryPrimitives.WriteUInt64LittleEndian(payload, size);
            return errno;
        });

    private VfioDevice Device() => VfioDevice.FromFd(new KernelFd(_kernel, 20, owned: false), "device20");

    private VfioMigratable Part(VfioMigrationFlags abilities)
    {
        _kernel.ExpectAbilities(abilities);
        return new VfioMigratable("device20", VfioMigration.Create(Device(), out _)!);
    }
}
