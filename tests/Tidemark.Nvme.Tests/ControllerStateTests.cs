using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Devices.Nvme;

namespace Tidemark.Nvme.Tests;

public sealed class ControllerStateTests : IDisposable
{
    private readonly DiskFile _file = new(8 << 20);
    private readonly TestMemory _memory = new(32 << 20);

    public void Dispose()
    {
        _file.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void State_moves_whichever_side_has_MSI_X_on_and_at_its_bounds_it_fits()
    {
        using ControllerHarness source = New();
        source.Controller.SetMsix(true);
        for (uint queue = 1; queue <= 64; queue++)
        {
            Assert.True(source.Admin(ControllerHarness.CreateCompletionQueue(queue, 16)).Status.Succeeded);
            Assert.True(source.Admin(ControllerHarness.CreateSubmissionQueue(queue, 16)).Status.Succeeded);
        }

        source.Controller.Quiesce();
        source.Controller.Freeze();
        byte[] final = source.Controller.SaveFinal();
        // What the bound must have room for besides: every queue full of commands, at 81 bytes each.
        const ulong Commands = 65 * 36 * 81;
        Assert.InRange((ulong)final.Length, 1ul, source.Controller.FinalStateSize - Commands);
        using var port = new Scope(_file, _memory);
        port.Controller.Quiesce();
        port.Controller.Freeze();
        Assert.Equal(Errno.Success, port.Controller.LoadState(final));
        byte[] control = new byte[2];
        Assert.Equal(Errno.Success, port.Controller.ReadRegion(7, 0x42, control));
        // 65 vectors, and off as this host has it.
        Assert.Equal(64, BitConverter.ToUInt16(control));
        port.Controller.SetMsix(true);
        port.Controller.ReadRegion(7, 0x42, control);
        Assert.Equal(0x8040, BitConverter.ToUInt16(control));
    }

    [Fact]
    public void The_function_is_PCI_Express_with_its_memory_in_a_BAR_of_its_own()
    {
        using ControllerHarness harness = New();
        NvmeController controller = harness.Controller;
        Assert.Equal([0x4000, 0, 0x4000, 0, 0, 0, 0, 0x1000, 0], controller.Regions.Select(region => region.ByteLength));
        byte[] config = new byte[4096];
        Assert.Equal(Errno.Success, controller.ReadRegion(7, 0, config));
        Assert.Equal([0x11, 0x80], config[0x40..0x42]);
        Assert.Equal([0x10, 0x00, 0x92, 0x00], config[0x80..0x84]);
        Assert.Equal(0x1000_8000u, BitConverter.ToUInt32(config, 0x84));
        Assert.All(config[0x100..], value => Assert.Equal(0, value));
        using var plain = new NvmeController(
            new SoftNvme("0000:01:00.0", "iommu0", ControllerHarness.ReadOnlyDisk(_file))
            {
                ControllerMemory = false, Resettable = false,
            },
            new LinuxKernel(), harness.Port);
        Assert.Equal(0ul, plain.Regions[2].ByteLength);
        Assert.Equal(Errno.Success, plain.ReadRegion(7, 0, config));
        Assert.Equal(0x8000u, BitConverter.ToUInt32(config, 0x84));
        byte[] capabilities = new byte[8];
        Assert.Equal(Errno.Success, plain.ReadRegion(0, 0, capabilities));
        Assert.False(new ControllerCapabilities(BitConverter.ToUInt64(capabilities)).HasControllerMemory);
    }

    [Fact]
    public void Another_device_reaches_registers_doorbells_and_memory_in_the_order_it_wrote()
    {
        using ControllerHarness harness = New();
        NvmeController controller = harness.Controller;
        Assert.Null(controller.PeerOf(1));
        IPeerTarget registers = controller.PeerOf(0)!;
        IPeerTarget memory = controller.PeerOf(2)!;
        memory.WriteByPeer(0x3ffc, [1, 2, 3, 4]);
        byte[] bytes = new byte[4];
        Assert.Equal(Errno.Success, controller.ReadRegion(2, 0x3ffc, bytes));
        Assert.Equal([1, 2, 3, 4], bytes);
        controller.WriteRegion(2, 0, [9]);
        memory.ReadByPeer(0, bytes);
        Assert.Equal(9, bytes[0]);
        // A reset of the controller, its size registers, and a start again: each seen by the next look.
        registers.WriteByPeer(NvmeRegister.Configuration, [0, 0, 0, 0]);
        registers.WriteByPeer(NvmeRegister.AdminQueueAttributes, [7, 0, 7, 0]);
        Assert.Equal(0x0007_0007u, harness.Read32(NvmeRegister.AdminQueueAttributes));
        registers.WriteByPeer(NvmeRegister.AdminQueueAttributes, [15, 0, 15, 0]);
        registers.ReadByPeer(NvmeRegister.AdminQueueAttributes, bytes);
        Assert.Equal([15, 0, 15, 0], bytes);
        registers.WriteByPeer(NvmeRegister.Configuration, BitConverter.GetBytes(ControllerConfiguration.Usual.Value));
        Assert.Equal(ControllerStatus.ReadyBit, harness.Read32(NvmeRegister.Status));
        harness.Submit(0, new SubmissionEntry { Opcode = 0x0c });
        // A doorbell of a queue that is not there, which the request of an event hears of.
        registers.WriteByPeer(NvmeRegister.SubmissionDoorbell(5, 4), [1, 0, 0, 0]);
        Assert.Equal(0x0001_0000u, harness.WaitFor(0).Result);
    }

    [Fact]
    public void Commands_in_flight_move_and_complete_exactly_once()
    {
        int moved = 0;
        for (int round = 0; round < 20; round++)
        {
            using ControllerHarness source = New();
            source.CreateIOQueues();
            ushort request = source.Submit(0, new SubmissionEntry { Opcode = 0x0c });
            const uint Blocks = 1024;
            var expected = new Dictionary<ushort, int>();
            for (int index = 0; index < 12; index++)
            {
                ulong buffer = 0x100_0000 + (ulong)index * 0x10_0000;
                ulong list = 0x20_0000 + (ulong)index * 0x1000;
                for (ulong page = 1; page < 128; page++)
                    _memory.Guest.Write(new(list + (page - 1) * 8), buffer + page * 4096);
                _memory.Guest.Write(new(buffer), new byte[Blocks * 512]);
                ulong block = (ulong)(index * 1000);
                SubmissionEntry read = ControllerHarness.Transfer(NvmOpcode.Read, block, Blocks, buffer, list);
                expected[source.Submit(1, read)] = index;
            }

            SpinWait.SpinUntil(() => source.Port.WriteCount > round * 40, TimeSpan.FromSeconds(20));
            source.Controller.Quiesce();
            long writes = source.Port.WriteCount;
            Assert.Equal(0, source.Port.PostedCount);
            byte[] initial = source.Controller.SaveInitial();
            byte[] changed = source.Controller.SaveChanged();
            source.Controller.Freeze();
            byte[] final = source.Controller.SaveFinal();
            Assert.Empty(changed);
            Assert.InRange((ulong)final.Length, 1ul, source.Controller.FinalStateSize);

            using var port = new Scope(_file, _memory);
            NvmeController destination = port.Controller;
            destination.Quiesce();
            destination.Freeze();
            Assert.Equal(Errno.Success,
                destination.LoadState(round % 2 == 0 ? [.. initial, .. changed, .. final] : final));
            Assert.Equal(writes, source.Port.WriteCount);
            destination.Unfreeze();
            destination.Run();
            int before = 0;
            while (expected.Count > 0)
            {
                CompletionEntry entry = source.WaitFor(1, destination);
                Assert.True(entry.Status.Succeeded, $"{entry.Status}");
                Assert.True(expected.Remove(entry.CommandId, out int index));
                byte[] data = _memory.Read(0x100_0000 + (ulong)index * 0x10_0000, (int)Blocks * 512);
                Assert.True(_file.Content.AsSpan(index * 512_000, data.Length).SequenceEqual(data),
                    $"Command {index} has other data.");
                before++;
            }

            moved += before;
            Assert.False(source.TryTake(1, out _, destination));
            // The request for events moved too.
            destination.WriteRegion(0, NvmeRegister.SubmissionDoorbell(9, 4), [1, 0, 0, 0]);
            Assert.Equal(request, source.WaitFor(0, destination).CommandId);
            Assert.Null(source.Controller.WorkerDefect);
            Assert.Null(destination.WorkerDefect);
            Assert.False(source.Port.Overlapped);
            Assert.Equal(writes, source.Port.WriteCount);
        }

        Assert.Equal(240, moved);
    }

    [Fact]
    public void A_quiesced_controller_keeps_a_doorbell_for_later()
    {
        using ControllerHarness harness = New();
        harness.CreateIOQueues();
        harness.Controller.Quiesce();
        long writes = harness.Port.WriteCount;
        harness.Submit(1, ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000));
        Assert.Equal(ControllerStatus.ReadyBit, harness.Read32(NvmeRegister.Status));
        Thread.Sleep(30);
        Assert.Equal(writes, harness.Port.WriteCount);
        harness.Controller.Run();
        Assert.True(harness.WaitFor(1).Status.Succeeded);
    }

    [Fact]
    public void A_changed_setup_is_reported_once()
    {
        using ControllerHarness harness = New();
        harness.Controller.SaveInitial();
        Assert.Empty(harness.Controller.SaveChanged());
        harness.CreateIOQueues();
        Assert.NotEmpty(harness.Controller.SaveChanged());
        harness.IO(ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000));
        Assert.Empty(harness.Controller.SaveChanged());
    }

    [Fact]
    public void A_stream_that_is_cut_changed_or_of_another_disk_is_refused()
    {
        using ControllerHarness source = New();
        source.CreateIOQueues();
        source.Controller.Quiesce();
        source.Controller.Freeze();
        byte[] state = source.Controller.SaveFinal();
        using var scope = new Scope(_file, _memory);
        scope.Controller.Quiesce();
        scope.Controller.Freeze();
        for (int length = 0; length < state.Length; length += length < 1500 ? 1 : 511)
            Assert.Equal(Errno.EINVAL, scope.Controller.LoadState(state.AsSpan(0, length)));
        var random = new Random(3);
        for (int round = 0; round < 3000; round++)
        {
            byte[] flipped = [.. state];
            flipped[random.Next(Math.Min(flipped.Length, 1500))] ^= (byte)(1 << random.Next(8));
            // Some flips give another valid state; none may throw, and the controller must answer afterwards.
            Assert.Contains(scope.Controller.LoadState(flipped), (Errno[])[Errno.Success, Errno.EINVAL]);
        }

        Assert.Equal(Errno.Success, scope.Controller.LoadState(state));
        using var other = new DiskFile(1 << 20);
        using var wrong = new Scope(other, _memory);
        wrong.Controller.Quiesce();
        wrong.Controller.Freeze();
        Assert.Equal(Errno.EINVAL, wrong.Controller.LoadState(state));
        Assert.Equal(Errno.EINVAL, wrong.Controller.LoadState([]));
    }

    [Fact]
    public void What_the_source_wrote_to_the_overlay_until_the_end_is_seen_by_the_destination()
    {
        string overlay = Path.GetTempFileName();
        var disk = new SoftDisk(_file.Path, (ulong)_file.Content.Length, SoftDiskMode.Overlay)
        {
            OverlayPath = overlay,
        };
        try
        {
            using var source = new ControllerHarness(disk, _memory);
            using var destination = new NvmeController(
                new SoftNvme("0000:01:00.0", "iommu0", disk), new LinuxKernel(), new FakeDmaPort(_memory.Guest));
            destination.Quiesce();
            destination.Freeze();
            source.CreateIOQueues();
            byte[] written = new byte[4096];
            new Random(5).NextBytes(written);
            _memory.Guest.Write(new(0x20_0000), written);
            Assert.True(source.IO(ControllerHarness.Transfer(NvmOpcode.Write, 80, 8, 0x20_0000)).Status.Succeeded);
            source.Controller.Quiesce();
            source.Controller.Freeze();
            Assert.Equal(Errno.Success, destination.LoadState(source.Controller.SaveFinal()));
            source.Submit(1, ControllerHarness.Transfer(NvmOpcode.Read, 80, 8, 0x30_0000));
            destination.Unfreeze();
            destination.Run();
            destination.WriteRegion(0, NvmeRegister.SubmissionDoorbell(1, 4), [2, 0, 0, 0]);
            Assert.True(source.WaitFor(1, destination).Status.Succeeded);
            Assert.Equal(written, _memory.Read(0x30_0000, 4096));
        }
        finally
        {
            File.Delete(overlay);
        }
    }

    [Fact]
    public void Hostile_bytes_neither_throw_nor_hang()
    {
        using ControllerHarness harness = New();
        var random = new Random(20260727);
        for (int round = 0; round < 150; round++)
        {
            harness.Controller.WriteRegion(7, NvmePci.CommandOffset, [6, 0]);
            harness.Write32(NvmeRegister.Configuration, 0);
            harness.Write32(NvmeRegister.AdminQueueAttributes, 0x000f_000f);
            harness.Write32(NvmeRegister.AdminSubmissionQueue, (uint)ControllerHarness.AdminSubmission);
            harness.Write32(NvmeRegister.AdminCompletionQueue, (uint)ControllerHarness.AdminCompletion);
            harness.Write32(NvmeRegister.Configuration, ControllerConfiguration.Usual.Value);
            byte[] noise = new byte[0x8000];
            random.NextBytes(noise);
            // Plausible opcodes and queues of small numbers, so that more than the first check is reached.
            for (int entry = 0; entry < noise.Length; entry += 64)
            {
                noise[entry] = (byte)random.Next(0, 13);
                noise[entry + 1] = 0;
                noise[entry + 4] = 1;
                noise.AsSpan(entry + 5, 3).Clear();
                if (random.Next(2) == 0)
                    noise.AsSpan(entry + 27, 5).Clear();
                if (random.Next(2) == 0)
                    noise.AsSpan(entry + 41, 7).Clear();
                noise[entry + 44] |= 1;
            }

            harness.Memory.Guest.Write(new(0x1000), noise);
            harness.Write32(0x1000, (uint)random.Next(16));
            for (int index = 0; index < 30; index++)
            {
                byte[] value = new byte[random.Next(1, 9)];
                random.NextBytes(value);
                if (random.Next(2) == 0)
                    value = BitConverter.GetBytes(random.Next(16));
                ulong offset = (ulong)random.Next(2) == 0
                    ? 0x1000 + (ulong)random.Next(40) * 4 : (ulong)random.Next(0x7ff0);
                if (offset is >= NvmeRegister.Configuration and < NvmeRegister.Status)
                    continue;
                harness.Controller.WriteRegion(0, offset, value);
                harness.Controller.ReadRegion(0, offset, value);
            }
        }

        harness.Controller.Quiesce();
        harness.Controller.Freeze();
        byte[] state = harness.Controller.SaveFinal();
        Assert.InRange((ulong)state.Length, 1ul, harness.Controller.FinalStateSize);
        Assert.Equal(Errno.Success, harness.Controller.LoadState(state));
        Assert.Null(harness.Controller.WorkerDefect);
        harness.Controller.Reset(keepsConfig: false);
        using ControllerHarness fresh = New();
        fresh.CreateIOQueues();
        Assert.True(fresh.IO(ControllerHarness.Transfer(NvmOpcode.Read, 0, 8, 0x20_0000)).Status.Succeeded);
    }

    [Fact]
    public void Memory_inside_the_device_moves_with_its_state_and_takes_its_time()
    {
        var load = TimeSpan.FromMilliseconds(70);
        using NvmeController source = WithMemory("0000:01:00.0", 3 << 20, TimeSpan.Zero);
        using NvmeController destination = WithMemory("0000:02:00.0", 3 << 20, load);
        using NvmeController smaller = WithMemory("0000:03:00.0", 1 << 20, TimeSpan.Zero);
        Assert.False(source.FinalMemory.Span.SequenceEqual(destination.FinalMemory.Span));
        byte[] stream = [.. source.SaveFinal(), .. source.FinalMemory.Span];
        Assert.InRange((ulong)stream.Length, 3ul << 20, source.FinalStateSize);
        Assert.Equal(Errno.EINVAL, smaller.LoadState(stream));
        Assert.Equal(Errno.EINVAL, destination.LoadState(stream.AsSpan(0, stream.Length - 1)));
        long start = Stopwatch.GetTimestamp();
        Assert.Equal(Errno.Success, destination.LoadState(stream));
        Assert.True(Stopwatch.GetElapsedTime(start) >= load - TimeSpan.FromMilliseconds(1));
        Assert.True(source.FinalMemory.Span.SequenceEqual(destination.FinalMemory.Span));
    }

    private NvmeController WithMemory(string address, int byteLength, TimeSpan load)
    {
        var controller = new NvmeController(
            new SoftNvme(address, "iommu0", ControllerHarness.ReadOnlyDisk(_file))
            {
                SerialNumber = "one", InternalStateBytes = byteLength, LoadTime = load,
            },
            new LinuxKernel(), new FakeDmaPort(_memory.Guest));
        controller.Quiesce();
        controller.Freeze();
        return controller;
    }

    private ControllerHarness New() => new(ControllerHarness.ReadOnlyDisk(_file), _memory);

    /// <summary>A controller that nothing has touched.</summary>
    private sealed class Scope : IDisposable
    {
        public Scope(DiskFile file, TestMemory memory) => Controller = new NvmeController(
            new SoftNvme("0000:01:00.0", "iommu0", ControllerHarness.ReadOnlyDisk(file)),
            new LinuxKernel(), new FakeDmaPort(memory.Guest));

        public NvmeController Controller { get; }

        public void Dispose() => Controller.Dispose();
    }
}
