using System.Buffers.Binary;
using System.Diagnostics;
using Tidemark.Memory;
using Tidemark.Nvme;

namespace Tidemark.Machine.Nvme;

/// <summary>From reset to the first I/O queue. NVM Express 1.4 section 7.6.1.</summary>
public sealed partial class NvmeDriver
{
    private GuestPhysicalAddress IdentifyPage => ArenaAt(2 * GuestPage.Size);

    /// <summary>
    /// Resets the controller and brings it up: bus master, admin queue, identify, one I/O queue pair, interrupts.
    /// </summary>
    /// <exception cref="NvmeException">The controller is none, lacks something, fails, or is not ready in the time it
    /// promises.</exception>
    public void Initialize()
    {
        _options.Dma?.MapQueues(_options.ArenaStart, _options.ArenaByteLength);
        Array.Clear(_outstanding);
        OutstandingCount = 0;
        EnableFunction(NvmePci.CommandMemory);
        var capabilities = new ControllerCapabilities(_hardware.ReadRegister64(NvmeRegister.Capabilities));
        if (capabilities.Value == ulong.MaxValue || !capabilities.HasNvmCommandSet
            || capabilities.MinimumPageShift > GuestPage.Shift)
            throw new NvmeException(
                $"The function is no NVMe controller this driver can run: CAP is 0x{capabilities.Value:x}.");
        if (capabilities.MaximumQueueEntries < _options.QueueEntries)
            throw new NvmeException(
                $"NVMe queues of {_options.QueueEntries} entries exceed the "
                + $"controller's {capabilities.MaximumQueueEntries}.");
        _hardware.WriteRegister32(NvmeRegister.Configuration, 0);
        WaitForReady(ready: false, capabilities.ReadyTimeout);
        // ORDER: not before it is disabled: a controller that was left as it was (not every function can be reset) would
        // go on with queues that lie in memory of ours by now.
        EnableFunction(NvmePci.CommandBusMaster);
        StartAdminQueue(capabilities);
        IdentifyAll();
        Execute(new SubmissionEntry
        {
            Opcode = (byte)AdminOpcode.SetFeatures,
            Dword10 = (uint)FeatureId.NumberOfQueues,
        }, "Setting the number of queues");
        // Vectors before the queue that uses them.
        _interrupts.Connect(_hardware);
        CreateIOQueues(capabilities);
    }

    /// <summary>
    /// Tells the controller to make everything durable and waits until it has. It is then disabled, does no DMA, and
    /// <see cref="Initialize"/> brings it up again. Idempotent.
    /// </summary>
    /// <exception cref="NvmeException">It did not shut down; it may still work.</exception>
    public void Shutdown()
    {
        var capabilities = new ControllerCapabilities(_hardware.ReadRegister64(NvmeRegister.Capabilities));
        var configuration = new ControllerConfiguration(_hardware.ReadRegister32(NvmeRegister.Configuration));
        // Section 3.1.5: a shutdown notification has a meaning only while the controller is enabled.
        if (configuration.Enabled)
        {
            _hardware.WriteRegister32(NvmeRegister.Configuration, configuration.WithNormalShutdown().Value);
            WaitForStatus(
                status => (status.Value & ControllerStatus.ShutdownMask) == ControllerStatus.ShutdownComplete,
                "shut down", ShutdownLimit(capabilities));
        }

        _hardware.WriteRegister32(NvmeRegister.Configuration, 0);
        WaitForReady(ready: false, capabilities.ReadyTimeout);
        _interrupts.Disconnect(_hardware);
        _admin = null;
        _io = null;
    }

    /// <summary>LIMIT: a flush of a large cache takes longer than getting ready.</summary>
    private static TimeSpan ShutdownLimit(ControllerCapabilities capabilities) =>
        capabilities.ReadyTimeout > TimeSpan.FromSeconds(10) ? capabilities.ReadyTimeout : TimeSpan.FromSeconds(10);

    private void EnableFunction(ushort bits)
    {
        Span<byte> command = stackalloc byte[sizeof(ushort)];
        _hardware.ReadConfig(NvmePci.CommandOffset, command);
        ushort value = BinaryPrimitives.ReadUInt16LittleEndian(command);
        value |= (ushort)(bits | NvmePci.CommandInterruptDisable);
        BinaryPrimitives.WriteUInt16LittleEndian(command, value);
        _hardware.WriteConfig(NvmePci.CommandOffset, command);
    }

    private void WaitForReady(bool ready, TimeSpan timeout) =>
        WaitForStatus(status => status.Ready == ready, ready ? "become ready" : "stop", timeout);

    private void WaitForStatus(Func<ControllerStatus, bool> reached, string what, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        SpinWait spinner = default;
        while (true)
        {
            var status = new ControllerStatus(_hardware.ReadRegister32(NvmeRegister.Status));
            if (reached(status))
                return;
            if (status.Fatal || Stopwatch.GetElapsedTime(start) > timeout)
                throw new NvmeException(
                    $"The NVMe controller did not {what} within {timeout.TotalSeconds} s: CSTS is 0x{status.Value:x}.");
            spinner.SpinOnce();
        }
    }

    private void StartAdminQueue(ControllerCapabilities capabilities)
    {
        _admin = CreateAdminPair(capabilities.DoorbellStrideBytes);
        _admin.Clear();
        _hardware.WriteRegister32(
            NvmeRegister.AdminQueueAttributes, AdminQueueAttributes.Create(AdminEntries, AdminEntries).Value);
        _hardware.WriteRegister64(NvmeRegister.AdminSubmissionQueue, ToBus(_admin.Submission));
        _hardware.WriteRegister64(NvmeRegister.AdminCompletionQueue, ToBus(_admin.Completion));
        _hardware.WriteRegister32(NvmeRegister.Configuration, ControllerConfiguration.Usual.Value);
        WaitForReady(ready: true, capabilities.ReadyTimeout);
    }

    private NvmeQueuePair CreateAdminPair(uint doorbellStride) =>
        new(_hardware, _memory, id: 0, AdminEntries, doorbellStride)
        {
            Submission = ArenaAt(0),
            Completion = ArenaAt(GuestPage.Size),
        };

    private void IdentifyAll()
    {
        byte[] data = new byte[IdentifyController.ByteLength];
        Identify(IdentifyStructure.Controller, namespaceId: 0, data);
        IdentifyController controller = IdentifyController.Parse(data);
        SerialNumber = controller.SerialNumber;
        ModelNumber = controller.ModelNumber;
        Identify(IdentifyStructure.Namespace, namespaceId: 1, data);
        IdentifyNamespace space = IdentifyNamespace.Parse(data);
        if (space.BlockCount == 0 || space.BlockShift is < 9 or > 16 || space.BlockCount > ulong.MaxValue >> 16)
            throw new NvmeException(
                $"NVMe controller {SerialNumber} has no usable namespace 1: "
                + $"0x{space.BlockCount:x} blocks of 2^{space.BlockShift} bytes.");
        if (space.MetadataBytes != 0)
            throw new NvmeException(
                $"Namespace 1 of NVMe controller {SerialNumber} is formatted with {space.MetadataBytes} bytes of metadata "
                + "a block, which this driver does not read.");
        uint limit = OwnTransferLimit;
        if (controller.MaximumTransferShift is > 0 and < 12)
            limit = Math.Min(limit, (uint)PrpGeometry.PageByteLength << controller.MaximumTransferShift);
        _namespace = new NvmeNamespaceInfo(
            space.BlockCount, 1u << space.BlockShift, limit, space.WriteProtected, SubmissionQueueInController: false);
    }

    private void Identify(IdentifyStructure structure, uint namespaceId, Span<byte> into)
    {
        Execute(new SubmissionEntry
        {
            Opcode = (byte)AdminOpcode.Identify,
            NamespaceId = namespaceId,
            Prp1 = ToBus(IdentifyPage),
            Dword10 = (uint)structure,
        }, $"Identify {structure}");
        _memory.Read(IdentifyPage, into);
    }

    private void CreateIOQueues(ControllerCapabilities capabilities)
    {
        (uint Bar, ulong Offset)? controllerMemory = _options.UseControllerMemory ? EnableControllerMemory(capabilities) : null;
        _io = new NvmeQueuePair(_hardware, _memory, IOQueue, _options.QueueEntries, capabilities.DoorbellStrideBytes)
        {
            Submission = IOSubmission,
            Completion = IOCompletion,
            InController = controllerMemory,
        };
        _io.Clear();
        _namespace = Namespace with { SubmissionQueueInController = controllerMemory is not null };
        Execute(new SubmissionEntry
        {
            Opcode = (byte)AdminOpcode.CreateCompletionQueue,
            Prp1 = ToBus(IOCompletion),
            Dword10 = (_options.QueueEntries - 1) << 16 | IOQueue,
            // Contiguous; vector 1 with interrupts enabled. A vector other than 0 is an error while MSI-X is off.
            Dword11 = _options.UseInterrupts ? 1u << 16 | 2 | 1 : 1,
        }, "Creating the I/O completion queue");
        Execute(new SubmissionEntry
        {
            Opcode = (byte)AdminOpcode.CreateSubmissionQueue,
            Prp1 = controllerMemory is null
                ? ToBus(IOSubmission) : _options.ControllerMemoryAddress,
            Dword10 = (_options.QueueEntries - 1) << 16 | IOQueue,
            Dword11 = (uint)IOQueue << 16 | 1, // Its completion queue, contiguous.
        }, "Creating the I/O submission queue");
    }

    /// <summary>
    /// BAR of memory for the submission queue, and the offset there; null when the controller offers none that is
    /// enough.
    /// </summary>
    private (uint Bar, ulong Offset)? EnableControllerMemory(ControllerCapabilities capabilities)
    {
        if (!capabilities.HasControllerMemory)
            return null;
        _hardware.WriteRegister64(NvmeRegister.ControllerMemorySpace, ControllerMemorySpace.RegistersOnly.Value);
        var location = new ControllerMemoryLocation(_hardware.ReadRegister32(NvmeRegister.ControllerMemoryLocation));
        var size = new ControllerMemorySize(_hardware.ReadRegister32(NvmeRegister.ControllerMemorySize));
        ulong needed = _options.QueueEntries * (ulong)SubmissionEntry.ByteLength;
        if (location.Bar >= Bars || !size.AllowsSubmissionQueues || size.ByteLength < needed)
            return null;
        _hardware.WriteRegister64(
            NvmeRegister.ControllerMemorySpace, ControllerMemorySpace.Create(_options.ControllerMemoryAddress).Value);
        return (location.Bar, location.OffsetUnits * size.UnitBytes);
    }

    /// <summary>One admin command, waited for.</summary>
    private void Execute(SubmissionEntry entry, string what)
    {
        NvmeQueuePair admin = _admin ?? throw NotReady();
        ushort id = _nextAdminCommand;
        _nextAdminCommand = (ushort)((id + 1) & 0xfff);
        admin.Submit(entry with { CommandId = id });
        long start = Stopwatch.GetTimestamp();
        SpinWait spinner = default;
        CompletionEntry completion;
        while (!admin.TryTake(out completion))
        {
            var status = new ControllerStatus(_hardware.ReadRegister32(NvmeRegister.Status));
            if (status.Fatal || Stopwatch.GetElapsedTime(start) > _options.CommandTimeout)
                throw new NvmeException($"{what} had no answer from the NVMe controller: CSTS is 0x{status.Value:x}.");
            spinner.SpinOnce();
        }

        if (completion.CommandId != id)
            throw new NvmeException($"{what} was answered for command 0x{completion.CommandId:x} instead of 0x{id:x}.");
        if (!completion.Status.Succeeded)
            throw new NvmeException($"{what} failed with NVMe status {completion.Status}.");
    }
}
