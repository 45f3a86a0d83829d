using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Kernel.Soft.Devices.Nvme;

namespace Tidemark.Nvme.Tests;

public sealed class ControllerCommandTests : IDisposable
{
    private readonly DiskFile _file = new((4 << 20) - 700);
    private readonly TestMemory _memory = new(16 << 20);

    public void Dispose()
    {
        _file.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void Identify_tells_the_namespace_in_blocks_rounded_up()
    {
        using ControllerHarness harness = New();
        var identify = new SubmissionEntry { Opcode = 6, Dword10 = 1, Prp1 = ControllerHarness.Data };
        Assert.True(harness.Admin(identify).Status.Succeeded);
        IdentifyController controller = IdentifyController.Parse(_memory.Read(ControllerHarness.Data, 4096));
        Assert.Equal("TM0000:01:00.0", controller.SerialNumber);
        Assert.True(harness.Admin(identify with { Dword10 = 0, NamespaceId = 1 }).Status.Succeeded);
        IdentifyNamespace space = IdentifyNamespace.Parse(_memory.Read(ControllerHarness.Data, 4096));
        Assert.Equal(((4ul << 20) - 700 + 511) / 512, space.BlockCount);
        Assert.True(space.WriteProtected);
        Assert.True(harness.Admin(identify with { Dword10 = 2 }).Status.Succeeded);
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(_memory.Read(ControllerHarness.Data, 4)));
    }

    [Theory]
    [InlineData(0, 1)] // Part of one page.
    [InlineData(0, 8)] // One page.
    [InlineData(0xe00, 8)] // Two pages by an offset.
    [InlineData(4, 16)] // A list of two by an offset.
    [InlineData(0, 16)] // Two pages.
    [InlineData(0, 64)] // A list.
    [InlineData(0xffc, 2048)] // The longest transfer, 257 pages.
    public void Reads_arrive_through_every_shape_of_PRPs(ulong offset, uint blocks)
    {
        using ControllerHarness harness = New();
        harness.CreateIOQueues();
        foreach (ulong listOffset in (ulong[])[0, 0xff0, 0xf00])
        {
            const ulong Buffer = 0x20_0000;
            ulong prp2 = WritePrps(Buffer + offset, blocks * 512, listOffset);
            SubmissionEntry read = ControllerHarness.Transfer(NvmOpcode.Read, 5, blocks, Buffer + offset, prp2);
            Assert.Equal(NvmeStatus.Success, harness.IO(read).Status);
            AssertContent(5 * 512, ReadScattered(Buffer, offset, (int)blocks * 512));
        }
    }

    [Fact]
    public void The_last_incomplete_block_reads_as_zeros_beyond_the_end()
    {
        using ControllerHarness harness = New();
        harness.CreateIOQueues();
        ulong last = ((4ul << 20) - 700 + 511) / 512 - 1;
        harness.IO(ControllerHarness.Transfer(NvmOpcode.Read, last, 1, 0x20_0000));
        AssertContent((int)last * 512, _memory.Read(0x20_0000, 512));
    }

    [Fact]
    public void Bad_commands_have_the_status_of_the_specification()
    {
        using ControllerHarness harness = New();
        harness.CreateIOQueues();
        SubmissionEntry read = ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000);
        Assert.Equal(0x001, harness.IO(read with { Opcode = 0x7f }).Status.Code);
        Assert.Equal(0x002, harness.IO(read with { Flags = 0x40 }).Status.Code);
        Assert.Equal(0x002, harness.IO(read with { Dword12 = 2048 }).Status.Code);
        Assert.Equal(0x00b, harness.IO(read with { NamespaceId = 2 }).Status.Code);
        Assert.Equal(0x013, harness.IO(read with { Prp1 = 0x20_0002 }).Status.Code);
        Assert.Equal(0x013, harness.IO(read with { Dword12 = 15, Prp2 = 0x10 }).Status.Code);
        Assert.Equal(0x080, harness.IO(read with { Dword10 = 8192 }).Status.Code);
        Assert.Equal(0x080, harness.IO(read with { Dword10 = uint.MaxValue, Dword11 = uint.MaxValue }).Status.Code);
        Assert.Equal(0x004, harness.IO(read with { Prp1 = 1ul << 40 }).Status.Code);
        Assert.Equal(0x004, harness.IO(read with { Prp1 = ulong.MaxValue & ~0xffful }).Status.Code);
        Assert.Equal(0x020, harness.IO(read with { Opcode = 1 }).Status.Code);
        Assert.Equal(0x001, harness.Admin(new SubmissionEntry { Opcode = 0xff }).Status.Code);
        Assert.Equal(0x101, harness.Admin(ControllerHarness.CreateCompletionQueue(65, 4)).Status.Code);
        Assert.Equal(0x101, harness.Admin(ControllerHarness.CreateCompletionQueue(1, 4)).Status.Code);
        Assert.Equal(0x102, harness.Admin(ControllerHarness.CreateCompletionQueue(2, 2000)).Status.Code);
        Assert.Equal(0x102, harness.Admin(ControllerHarness.CreateCompletionQueue(2, 1)).Status.Code);
        Assert.Equal(0x100, harness.Admin(ControllerHarness.CreateSubmissionQueue(3, 4)).Status.Code);
        Assert.Equal(0x10c, harness.Admin(new SubmissionEntry { Opcode = 4, Dword10 = 1 }).Status.Code);
        Assert.Equal(0x109, harness.Admin(
            new SubmissionEntry { Opcode = 2, Dword10 = 0x77, Prp1 = 0x3000 }).Status.Code);
        Assert.Equal(NvmeStatus.Success, harness.IO(read).Status);
    }

    [Fact]
    public void Features_logs_and_queue_deletion_answer()
    {
        using ControllerHarness harness = New();
        CompletionEntry queues = harness.Admin(new SubmissionEntry { Opcode = 9, Dword10 = 7, Dword11 = 0x003f_003f });
        Assert.Equal(0x003f_003fu, queues.Result);
        harness.CreateIOQueues();
        harness.Admin(new SubmissionEntry { Opcode = 9, Dword10 = 6, Dword11 = 0 });
        Assert.Equal(0u, harness.Admin(new SubmissionEntry { Opcode = 10, Dword10 = 6 }).Result);
        Assert.Equal(1u, harness.Admin(new SubmissionEntry { Opcode = 10, Dword10 = 0x106 }).Result);
        harness.IO(ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000));
        Assert.True(harness.Admin(
            new SubmissionEntry { Opcode = 2, Dword10 = 127u << 16 | 2, Prp1 = 0x3000 }).Status.Succeeded);
        Assert.Equal(1ul, BinaryPrimitives.ReadUInt64LittleEndian(_memory.Read(0x3000 + 64, 8)));
        Assert.True(harness.Admin(new SubmissionEntry { Opcode = 0, Dword10 = 1 }).Status.Succeeded);
        Assert.True(harness.Admin(new SubmissionEntry { Opcode = 4, Dword10 = 1 }).Status.Succeeded);
    }

    [Fact]
    public void A_doorbell_beyond_the_queue_is_ignored_and_reported_as_an_event()
    {
        using ControllerHarness harness = New();
        ushort request = harness.Submit(0, new SubmissionEntry { Opcode = 0x0c });
        harness.Write32(NvmeRegister.SubmissionDoorbell(5, 4), 1);
        CompletionEntry occurred = harness.WaitFor(0);
        Assert.Equal(request, occurred.CommandId);
        Assert.Equal(0x0001_0000u, occurred.Result);
        harness.CreateIOQueues();
        harness.Write32(NvmeRegister.SubmissionDoorbell(1, 4), 0xffff_ffff);
        // A doorbell keeps its last value only: a command's round trip shows that this one was taken.
        Assert.True(harness.Admin(new SubmissionEntry { Opcode = 10, Dword10 = 6 }).Status.Succeeded);
        Assert.True(harness.IO(ControllerHarness.Transfer(NvmOpcode.Flush, 0, 1, 0)).Status.Succeeded);
        // The second event waits until the error log has been read.
        request = harness.Submit(0, new SubmissionEntry { Opcode = 0x0c });
        ushort log = harness.Submit(0, new SubmissionEntry { Opcode = 2, Dword10 = 15u << 16 | 1, Prp1 = 0x3000 });
        Assert.Equal(log, harness.WaitFor(0).CommandId);
        occurred = harness.WaitFor(0);
        Assert.Equal((request, 0x0001_0100u), (occurred.CommandId, occurred.Result));
    }

    [Fact]
    public void Without_bus_master_there_is_no_DMA_and_the_controller_says_it_failed()
    {
        using ControllerHarness harness = New();
        harness.Controller.WriteRegion(7, NvmePci.CommandOffset, [2, 0]);
        harness.Submit(0, new SubmissionEntry { Opcode = 6, Dword10 = 1, Prp1 = 0x3000 });
        Assert.True(SpinWait.SpinUntil(() => (harness.Read32(NvmeRegister.Status) & 2) != 0, TimeSpan.FromSeconds(20)));
        Assert.Equal(0, harness.Port.WriteCount);
        harness.Write32(NvmeRegister.Configuration, 0);
        Assert.Equal(0u, harness.Read32(NvmeRegister.Status));
    }

    [Fact]
    public void With_memory_space_disabled_registers_do_not_answer()
    {
        using ControllerHarness harness = New();
        harness.Controller.WriteRegion(7, NvmePci.CommandOffset, [0, 0]);
        Assert.Equal(Errno.EIO, harness.Controller.ReadRegion(0, 0, new byte[4]));
        Assert.Equal(Errno.EIO, harness.Controller.WriteRegion(0, 0x1000, new byte[4]));
    }

    [Fact]
    public void An_interrupt_comes_after_everything_that_was_posted()
    {
        using ControllerHarness harness = New();
        int posted = -1;
        using var raised = new ManualResetEventSlim();
        harness.Controller.SetInterrupt(1, () =>
        {
            posted = harness.Port.PostedCount;
            raised.Set();
        });
        harness.CreateIOQueues();
        harness.Submit(1, ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000));
        Assert.True(raised.Wait(TimeSpan.FromSeconds(20)));
        Assert.Equal(0, posted);
    }

    [Fact]
    public void A_vector_unmasked_while_the_device_is_quiesced_signals_when_it_runs_again()
    {
        const ulong ControlOfVector1 = 0x2000 + 16 + 12;
        using ControllerHarness harness = New();
        int raised = 0;
        harness.Controller.SetInterrupt(1, () => Interlocked.Increment(ref raised));
        harness.Controller.WriteRegion(0, ControlOfVector1, [1, 0, 0, 0]);
        harness.CreateIOQueues();
        harness.Submit(1, ControllerHarness.Transfer(NvmOpcode.Flush, 0, 1, 0));
        Assert.True(harness.WaitFor(1).Status.Succeeded);
        harness.Controller.Quiesce();
        harness.Controller.WriteRegion(0, ControlOfVector1, [0, 0, 0, 0]);
        Assert.Equal(0, Volatile.Read(ref raised));
        harness.Controller.Run();
        Assert.Equal(1, Volatile.Read(ref raised));
    }

    [Fact]
    public void A_full_completion_queue_holds_commands_back_until_there_is_room()
    {
        using ControllerHarness harness = New();
        harness.CreateIOQueues();
        // 15 fit; then 10 more are submitted while nothing is taken.
        for (int count = 0; count < 15; count++)
            harness.Submit(1, ControllerHarness.Transfer(NvmOpcode.Flush, 0, 1, 0));
        Assert.True(harness.Admin(new SubmissionEntry { Opcode = 10, Dword10 = 6 }).Status.Succeeded);
        for (int count = 0; count < 10; count++)
            harness.Submit(1, ControllerHarness.Transfer(NvmOpcode.Flush, 0, 1, 0));
        for (int count = 0; count < 25; count++)
            Assert.True(harness.WaitFor(1).Status.Succeeded);
        Assert.False(harness.TryTake(1, out _));
    }

    [Fact]
    public void Overlay_takes_writes_and_keeps_them_and_leaves_the_disk_alone()
    {
        string overlay = Path.GetTempFileName();
        var disk = new SoftDisk(_file.Path, (ulong)_file.Content.Length, SoftDiskMode.Overlay)
        {
            OverlayPath = overlay,
        };
        byte[] written = new byte[3 * 512];
        new Random(9).NextBytes(written);
        byte[] after = [.. _file.Content];
        written.CopyTo(after, 7 * 512);
        try
        {
            using (var harness = new ControllerHarness(disk, _memory))
            {
                harness.CreateIOQueues();
                _memory.Guest.Write(new(0x20_0000), written);
                Assert.True(harness.IO(ControllerHarness.Transfer(NvmOpcode.Write, 7, 3, 0x20_0000)).Status.Succeeded);
                Assert.True(harness.IO(ControllerHarness.Transfer(NvmOpcode.Flush, 0, 1, 0)).Status.Succeeded);
            }

            using (var harness = new ControllerHarness(disk, _memory))
            {
                harness.CreateIOQueues();
                harness.IO(ControllerHarness.Transfer(NvmOpcode.Read, 0, 16, 0x30_0000, 0x30_1000));
                Assert.Equal(after[..8192], _memory.Read(0x30_0000, 8192));
            }

            Assert.Equal(_file.Content, File.ReadAllBytes(_file.Path));
        }
        finally
        {
            File.Delete(overlay);
        }
    }

    [Fact]
    public void A_file_that_is_no_overlay_of_this_disk_is_refused_and_not_touched()
    {
        using var other = new DiskFile(5000);
        var disk = new SoftDisk(_file.Path, (ulong)_file.Content.Length, SoftDiskMode.Overlay)
        {
            OverlayPath = other.Path,
        };
        var port = new FakeDmaPort(_memory.Guest);
        KernelException refused = Assert.Throws<KernelException>(
            () => new NvmeController(new SoftNvme("0000:01:00.0", "iommu0", disk), new LinuxKernel(), port));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Equal(other.Content, File.ReadAllBytes(other.Path));
    }

    private ControllerHarness New() => new(ControllerHarness.ReadOnlyDisk(_file), _memory);

    private void AssertContent(int diskOffset, byte[] actual)
    {
        byte[] expected = new byte[actual.Length];
        int inside = Math.Min(expected.Length, _file.Content.Length - diskOffset);
        _file.Content.AsSpan(diskOffset, inside).CopyTo(expected);
        Assert.Equal(expected, actual);
    }

    /// <summary>Where the n-th page of a transfer lies: not in order, so that addresses matter.</summary>
    private static ulong PageOf(ulong buffer, int index) =>
        index == 0 ? buffer : buffer + (ulong)(1 + (index ^ 1)) * 0x1000;

    /// <summary>Lists at 4 MiB; one that begins near a page's end continues on the next.</summary>
    private ulong WritePrps(ulong prp1, uint byteLength, ulong listOffset)
    {
        int pages = (int)PrpGeometry.CountPages(prp1, byteLength);
        ulong buffer = prp1 & ~0xffful;
        if (pages <= 2)
            return pages == 2 ? PageOf(buffer, 1) : 0;
        ulong list = 0x40_0000 + listOffset;
        ulong at = list;
        for (int index = 1; index < pages; index++)
        {
            bool lastSlot = (at & 0xfff) == 0xff8;
            if (lastSlot && index < pages - 1)
            {
                ulong next = (at & ~0xffful) + 0x2000;
                _memory.Guest.Write(new(at), next);
                at = next;
            }

            _memory.Guest.Write(new(at), PageOf(buffer, index));
            at += 8;
        }

        return list;
    }

    private byte[] ReadScattered(ulong buffer, ulong offset, int byteLength)
    {
        var bytes = new List<byte>();
        for (int index = 0; bytes.Count < byteLength; index++)
        {
            ulong skip = index == 0 ? offset : 0;
            int take = Math.Min(byteLength - bytes.Count, 4096 - (int)skip);
            bytes.AddRange(_memory.Read(PageOf(buffer, index) + skip, take));
        }

        return [.. bytes];
    }
}
