using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Devices.Nvme;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
using Tidemark.Memory;

namespace Tidemark.Nvme.Tests;

/// <summary>The driver's hardware is the model itself, without VFIO between.</summary>
internal sealed class FakeNvmeHardware(SoftDeviceModel model, IKernel kernel) : INvmeHardware
{
    public uint ReadRegister32(ulong offset)
    {
        byte[] bytes = new byte[4];
        Assert.Equal(Errno.Success, model.ReadRegion(0, offset, bytes));
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    public ulong ReadRegister64(ulong offset)
    {
        byte[] bytes = new byte[8];
        Assert.Equal(Errno.Success, model.ReadRegion(0, offset, bytes));
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    public void WriteRegister32(ulong offset, uint value) =>
        Assert.Equal(Errno.Success, model.WriteRegion(0, offset, BitConverter.GetBytes(value)));

    public void WriteRegister64(ulong offset, ulong value) =>
        Assert.Equal(Errno.Success, model.WriteRegion(0, offset, BitConverter.GetBytes(value)));

    public void WriteControllerMemory(uint bar, ulong offset, ReadOnlySpan<byte> bytes) =>
        Assert.Equal(Errno.Success, model.WriteRegion(bar, offset, bytes));

    public void ReadConfig(ulong offset, Span<byte> into) => model.ReadRegion(7, offset, into);

    public void WriteConfig(ulong offset, ReadOnlySpan<byte> from) => model.WriteRegion(7, offset, from);

    public void EnableInterrupts(IReadOnlyList<KernelFd> eventfds)
    {
        for (int vector = 0; vector < eventfds.Count; vector++)
        {
            KernelFd eventfd = eventfds[vector];
            model.SetInterrupt((uint)vector, () => kernel.Write(eventfd.Number, [1, 0, 0, 0, 0, 0, 0, 0]));
        }
    }

    public void DisableInterrupts()
    {
        for (uint vector = 0; vector < model.MsixVectors; vector++)
            model.SetInterrupt(vector, null);
    }
}

public sealed class DriverTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly LinuxKernel _kernel = new();
    private readonly DiskFile _file = new((8 << 20) + 100);
    private readonly TestMemory _memory = new(32 << 20);
    private readonly List<IDisposable> _owned = [];

    public void Dispose()
    {
        for (int index = _owned.Count - 1; index >= 0; index--)
            _owned[index].Dispose();
        _file.Dispose();
        _memory.Dispose();
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(false, false)]
    public void A_workload_reads_what_the_file_holds(bool controllerMemory, bool interrupts)
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller, controllerMemory, interrupts);
        driver.Initialize();
        Assert.Equal(controllerMemory, driver.Namespace.SubmissionQueueInController);
        Assert.True(driver.Namespace.WriteProtected);
        NvmeWorkload workload = NewWorkload(
            driver, _memory.Guest, new NvmeWorkloadOptions("t", new(8 << 20), 4 << 20) { BlockBytes = 65536 });
        workload.Start();
        WaitForReads(workload, 300);
        workload.Pause();
        ulong reads = workload.Counters.Reads;
        Thread.Sleep(20);
        Assert.Equal(reads, workload.Counters.Reads);
        workload.Resume();
        WaitForReads(workload, reads + 100);
        AssertClean(workload);
        Assert.Null(controller.WorkerDefect);
    }

    [Fact]
    public void A_wrong_byte_in_a_buffer_is_found()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        driver.Initialize();
        byte[] content = [.. _file.Content];
        content[0x12345] ^= 1;
        var workload = new NvmeWorkload(
            driver, _memory.Guest, new ArrayContent(content), Options() with { Sequential = true });
        _owned.Add(workload);
        workload.Start();
        WaitForReads(workload, 1100);
        Assert.InRange(workload.Counters.DataErrors, 1ul, ulong.MaxValue);
        Assert.Contains("disk offset 0x12000", workload.Counters.FirstError!, StringComparison.Ordinal);
        Assert.Contains("byte 0x345", workload.Counters.FirstError!, StringComparison.Ordinal);
    }

    [Fact]
    public void A_workload_moves_with_its_controller_while_commands_are_in_flight()
    {
        string overlay = Path.GetTempFileName();
        _owned.Add(new Deletion(overlay));
        var disk = new SoftDisk(_file.Path, (ulong)_file.Content.Length, SoftDiskMode.Overlay)
        {
            OverlayPath = overlay,
        };
        NvmeWorkloadOptions options = Options() with { WritePercent = 20, Depth = 16, BlockBytes = 16384 };
        NvmeController controller = NewController(disk);
        NvmeDriver driver = NewDriver(controller);
        driver.Initialize();
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, options);
        workload.Start();
        int inFlight = 0;
        for (int move = 0; move < 8; move++)
        {
            WaitForReads(workload, workload.Counters.Reads + 200);
            workload.Pause();
            controller.Quiesce();
            controller.Freeze();
            inFlight += driver.OutstandingCount;
            byte[] workloadState = workload.SaveState();
            byte[] deviceState = controller.SaveFinal();

            NvmeController next = NewController(disk);
            next.Quiesce();
            next.Freeze();
            Assert.Equal(Errno.Success, next.LoadState(deviceState));
            NvmeDriver nextDriver = NewDriver(next);
            NvmeWorkload nextWorkload = NewWorkload(nextDriver, _memory.Guest, options);
            nextWorkload.RestoreState(workloadState);
            Assert.Equal(workload.Counters.Reads, nextWorkload.Counters.Reads);
            next.Unfreeze();
            next.Run();
            nextWorkload.Start();
            AssertClean(workload);
            workload.Dispose();
            (controller, driver, workload) = (next, nextDriver, nextWorkload);
        }

        WaitForReads(workload, workload.Counters.Reads + 200);
        AssertClean(workload);
        Assert.InRange(workload.Counters.Writes, 10ul, ulong.MaxValue);
        Assert.InRange(inFlight, 1, int.MaxValue);
        Assert.Equal(_file.Content, File.ReadAllBytes(_file.Path));
    }

    [Fact]
    public void A_source_whose_move_failed_goes_on()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        driver.Initialize();
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, Options());
        workload.Start();
        for (int round = 0; round < 5; round++)
        {
            WaitForReads(workload, workload.Counters.Reads + 50);
            workload.Pause();
            controller.Quiesce();
            controller.Freeze();
            controller.SaveFinal();
            controller.Unfreeze();
            controller.Run();
            workload.Resume();
        }

        WaitForReads(workload, workload.Counters.Reads + 50);
        AssertClean(workload);
    }

    [Fact]
    public void Damaged_driver_and_workload_states_are_refused()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        driver.Initialize();
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, Options());
        workload.Start();
        WaitForReads(workload, 50);
        workload.Pause();
        byte[] state = workload.SaveState();
        var random = new Random(4);
        for (int round = 0; round < 500; round++)
        {
            byte[] damaged = [.. state];
            bool cut = round % 2 == 0;
            if (cut)
                damaged = damaged[..random.Next(damaged.Length)];
            else
                damaged[random.Next(damaged.Length)] ^= (byte)(1 << random.Next(8));
            using NvmeDriver other = New(controller, true, true);
            using var victim = new NvmeWorkload(other, _memory.Guest, new ArrayContent(_file.Content), Options());
            Exception? refused = Record.Exception(() => victim.RestoreState(damaged));
            Assert.True(refused is NvmeException || refused is null && !cut, $"{refused}");
        }
    }

    [Fact]
    public void A_write_to_a_read_only_disk_is_refused()
    {
        NvmeDriver driver = NewDriver(NewController(ReadOnly()));
        driver.Initialize();
        driver.SubmitWrite(0, 8, new(8 << 20), tag: 77);
        NvmeCompletion completion;
        while (!driver.TryComplete(out completion))
            driver.WaitForCompletion(TimeSpan.FromMilliseconds(50));
        Assert.Equal(new NvmeCompletion(77, NvmeStatus.NamespaceWriteProtected), completion);
    }

    [Fact]
    public void A_controller_that_does_not_answer_is_reported()
    {
        NvmeController controller = NewController(ReadOnly());
        var driver = new NvmeDriver(
            new FakeNvmeHardware(controller, _kernel), _memory.Guest, _kernel,
            new NvmeDriverOptions(new(0x10_0000), 1 << 20) { CommandTimeout = TimeSpan.FromMilliseconds(50) });
        _owned.Add(driver);
        driver.Initialize();
        controller.Quiesce();
        driver.SubmitRead(0, 8, new(8 << 20), tag: 0);
        Assert.Throws<NvmeException>(() =>
        {
            for (int slice = 0; slice < 1000; slice++)
                driver.WaitForCompletion(TimeSpan.FromMilliseconds(20));
        });
    }

    [Fact]
    public void Commands_that_do_not_complete_stay_in_flight_when_quiescing_fails_and_complete_once_later()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, Options());
        workload.SetUp();
        workload.Start();
        WaitForReads(workload, 20);
        controller.Quiesce();
        // Completions that were posted before are taken first: eight are in flight for good when no read ends any more.
        ulong ended = 0;
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                ulong before = Interlocked.Exchange(ref ended, workload.Counters.Reads);
                Thread.Sleep(20);
                return before == workload.Counters.Reads && driver.OutstandingCount == 8;
            },
            s_patience));
        workload.Pause();
        IHandoverDriver handover = workload;
        int inFlight = driver.OutstandingCount;
        Assert.True(inFlight > 0);
        Assert.Throws<TimeoutException>(() => handover.Quiesce(TimeSpan.FromMilliseconds(50)));
        Assert.Equal(inFlight, driver.OutstandingCount);
        handover.Resume();
        controller.Run();
        ulong earlier = workload.Counters.Reads;
        handover.Quiesce(s_patience);
        Assert.Equal(earlier + (ulong)inFlight, workload.Counters.Reads);
        Assert.Equal(0, driver.OutstandingCount);
        workload.Resume();
        WaitForReads(workload, workload.Counters.Reads + 50);
        AssertClean(workload);
    }

    [Fact]
    public void A_halted_controller_is_set_up_again_with_its_interrupts()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, Options());
        workload.SetUp();
        workload.Start();
        WaitForReads(workload, 20);
        workload.Pause();
        IHandoverDriver handover = workload;
        handover.Quiesce(s_patience);
        handover.Halt();
        handover.Halt();
        Assert.Equal(0u, new FakeNvmeHardware(controller, _kernel).ReadRegister32(NvmeRegister.Status) & 1);
        handover.Resume();
        handover.Resume();
        workload.Resume();
        WaitForReads(workload, workload.Counters.Reads + 200);
        AssertClean(workload);
        Assert.Null(controller.WorkerDefect);
    }

    [Fact]
    public void Shutdown_leaves_the_controller_disabled()
    {
        NvmeController controller = NewController(ReadOnly());
        NvmeDriver driver = NewDriver(controller);
        driver.Initialize();
        driver.Shutdown();
        Assert.Equal(0u, new FakeNvmeHardware(controller, _kernel).ReadRegister32(NvmeRegister.Status) & 3);
        driver.Initialize();
        NvmeWorkload workload = NewWorkload(driver, _memory.Guest, Options());
        workload.Start();
        WaitForReads(workload, 20);
        AssertClean(workload);
    }

    private static NvmeWorkloadOptions Options() => new("t", new(8 << 20), 4 << 20);

    private static void AssertClean(NvmeWorkload workload)
    {
        Assert.Null(workload.Failure);
        NvmeWorkloadCounters counters = workload.Counters;
        Assert.Equal((0ul, 0ul, null), (counters.DataErrors, counters.CommandErrors, counters.FirstError));
    }

    private static void WaitForReads(NvmeWorkload workload, ulong reads) =>
        Assert.True(
            SpinWait.SpinUntil(() => workload.Counters.Reads >= reads || workload.Failure is not null, s_patience)
            && workload.Failure is null,
            $"{workload.Counters} {workload.Failure}");

    private SoftDisk ReadOnly() => new(_file.Path, (ulong)_file.Content.Length);

    private NvmeController NewController(SoftDisk disk)
    {
        var controller = new NvmeController(
            new SoftNvme("0000:01:00.0", "iommu0", disk), _kernel, new FakeDmaPort(_memory.Guest));
        _owned.Add(controller);
        return controller;
    }

    private NvmeDriver New(NvmeController controller, bool controllerMemory, bool interrupts) => new(
        new FakeNvmeHardware(controller, _kernel), _memory.Guest, _kernel,
        new NvmeDriverOptions(new(0x10_0000), 1 << 20)
        {
            UseControllerMemory = controllerMemory,
            UseInterrupts = interrupts,
        });

    private NvmeDriver NewDriver(NvmeController controller, bool controllerMemory = true, bool interrupts = true)
    {
        NvmeDriver driver = New(controller, controllerMemory, interrupts);
        _owned.Add(driver);
        // A vector must not signal an eventfd that is closed: this is undone before the driver is.
        _owned.Add(new Disconnection(new FakeNvmeHardware(controller, _kernel)));
        return driver;
    }

    private NvmeWorkload NewWorkload(NvmeDriver driver, GuestMemory memory, NvmeWorkloadOptions options)
    {
        var content = new FileExpectedContent(_file.Path);
        _owned.Add(content);
        var workload = new NvmeWorkload(driver, memory, content, options);
        _owned.Add(workload);
        return workload;
    }

    private sealed class Disconnection(FakeNvmeHardware hardware) : IDisposable
    {
        public void Dispose() => hardware.DisableInterrupts();
    }

    private sealed class Deletion(string path) : IDisposable
    {
        public void Dispose() => File.Delete(path);
    }

    private sealed class ArrayContent(byte[] content) : IExpectedContent
    {
        public void Read(ulong byteOffset, Span<byte> into)
        {
            into.Clear();
            int inside = (int)Math.Min(
                (ulong)into.Length, (ulong)content.Length - Math.Min(byteOffset, (ulong)content.Length));
            content.AsSpan((int)byteOffset, inside).CopyTo(into);
        }
    }
}
