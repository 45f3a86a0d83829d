using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>A device that goes to another process.</summary>
/// <param name="Container">Which of the manifest's containers it is attached to.</param>
internal sealed record InheritedDevice(string Host, uint DeviceId, bool IsMdev, int Container);

/// <summary>What goes beside the descriptors when a machine goes from one process to another.</summary>
/// <param name="Identity">As in a migration: memory layout, workload and devices must be the same.</param>
internal sealed record MachineManifest(
    byte[] Identity, IReadOnlyList<ContainerSnapshot> Containers, IReadOnlyList<InheritedDevice> Devices,
    byte[] ViommuState, byte[] WorkloadState)
{
    private const uint Magic = 0x4D4D_4D54; // "TMMM"
    private const ushort Version = 1;

    /// <summary>LIMIT: the kernel gives 16 bits for the mappings of a type1 container; an address space of iommufd may
    /// have as many again for each device.</summary>
    private const uint MaximumAreas = 1 << 20;

    /// <summary>LIMIT: devices, containers and page tables of one machine: a message carries 253 descriptors.</summary>
    private const uint MaximumCount = 251;

    public byte[] Write()
    {
        using var writer = new PartStateWriter(Magic, Version);
        writer.Block(Identity);
        writer.U32((uint)Containers.Count);
        foreach (ContainerSnapshot container in Containers)
            Write(writer, container);
        writer.U32((uint)Devices.Count);
        foreach (InheritedDevice device in Devices)
        {
            Write(writer, device.Host);
            writer.U32(device.DeviceId);
            writer.Flag(device.IsMdev);
            writer.U32((uint)device.Container);
        }

        writer.Block(ViommuState);
        writer.Block(WorkloadState);
        return writer.ToArray();
    }

    /// <exception cref="InvalidDataException">The bytes are damaged, or of another version of Tidemark.</exception>
    public static MachineManifest Read(ReadOnlySpan<byte> bytes)
    {
        var reader = new PartStateReader(bytes, Magic, Version);
        if (reader.Failed)
            throw new InvalidDataException("What the other process knows of the machine is of another version of Tidemark.");
        byte[] identity = reader.Block().ToArray();
        var containers = new List<ContainerSnapshot>();
        for (uint left = ReadCount(ref reader, MaximumCount); left > 0; left--)
            containers.Add(ReadContainer(ref reader));
        var devices = new List<InheritedDevice>();
        for (uint left = ReadCount(ref reader, MaximumCount); left > 0; left--)
        {
            var device = new InheritedDevice(ReadText(ref reader), reader.U32(), reader.Flag(), (int)ReadCount(ref reader, MaximumCount));
            if (device.Container >= containers.Count)
                throw Damaged();
            devices.Add(device);
        }

        byte[] viommu = reader.Block().ToArray(), workload = reader.Block().ToArray();
        return reader.IsComplete ? new MachineManifest(identity, containers, devices, viommu, workload) : throw Damaged();
    }

    private static void Write(PartStateWriter writer, ContainerSnapshot container)
    {
        writer.U32(container.IoasId);
        writer.U32((uint)container.Areas.Count);
        foreach (MappedArea area in container.Areas)
        {
            writer.U64(area.Range.First.Value);
            writer.U64(area.Range.Last.Value);
            writer.U8((byte)area.Access);
            writer.Flag(area.Guest is not null);
            writer.U64(area.Guest?.Value ?? 0);
        }

        writer.U32((uint)container.Hwpts.Count);
        foreach (HwptSnapshot table in container.Hwpts)
        {
            writer.U32(table.Id);
            writer.U32((uint)table.Flags);
        }

        writer.U32((uint)container.Attachments.Count);
        foreach (AttachmentSnapshot attachment in container.Attachments)
        {
            Write(writer, attachment.Device);
            writer.U32(attachment.HwptId ?? 0);
            Write(writer, attachment.NoTrackingReason ?? "");
        }
    }

    private static ContainerSnapshot ReadContainer(ref PartStateReader reader)
    {
        uint ioas = reader.U32();
        var areas = new List<MappedArea>();
        ulong next = 0;
        for (uint left = ReadCount(ref reader, MaximumAreas); left > 0; left--)
        {
            ulong first = reader.U64(), last = reader.U64();
            var access = (DmaAccess)reader.U8();
            bool isGuest = reader.Flag();
            ulong guest = reader.U64();
            if (reader.Failed || first < next || last < first || last == ulong.MaxValue || (access & ~DmaAccess.ReadWrite) != 0)
                throw Damaged();
            next = last + 1;
            areas.Add(new MappedArea(
                new IovaRange(new Iova(first), new Iova(last)), access, isGuest ? new GuestPhysicalAddress(guest) : null));
        }

        var tables = new List<HwptSnapshot>();
        for (uint left = ReadCount(ref reader, MaximumCount); left > 0; left--)
            tables.Add(new HwptSnapshot(reader.U32(), (IommuHwptAllocFlags)reader.U32()));
        var attachments = new List<AttachmentSnapshot>();
        for (uint left = ReadCount(ref reader, MaximumCount); left > 0; left--)
        {
            string device = ReadText(ref reader);
            uint table = reader.U32();
            string reason = ReadText(ref reader);
            attachments.Add(new AttachmentSnapshot(device, table == 0 ? null : table, reason.Length == 0 ? null : reason));
        }

        return reader.Failed ? throw Damaged() : new ContainerSnapshot(ioas, areas, tables, attachments);
    }

    private static void Write(PartStateWriter writer, string text) => writer.Block(System.Text.Encoding.UTF8.GetBytes(text));

    private static string ReadText(ref PartStateReader reader) => System.Text.Encoding.UTF8.GetString(reader.Block());

    private static uint ReadCount(ref PartStateReader reader, uint maximum)
    {
        uint count = reader.U32();
        return reader.Failed || count > maximum ? throw Damaged() : count;
    }

    private static InvalidDataException Damaged() => new("What the other process knows of the machine is damaged.");
}

/// <summary>A machine on its way from one process to another.</summary>
/// <param name="MemoryFile">The file that holds guest memory.</param>
/// <param name="Iommufd">Null for a machine without devices.</param>
/// <param name="Devices">In the order of the machine file.</param>
/// <param name="Manifest">What descriptors do not tell.</param>
public sealed record MachineInheritance(
    KernelFd MemoryFile, KernelFd? Iommufd, IReadOnlyList<KernelFd> Devices, ReadOnlyMemory<byte> Manifest) : IDisposable
{
    /// <summary>All of them, in the order in which they are sent.</summary>
    public IReadOnlyList<KernelFd> Descriptors => Iommufd is null ? [MemoryFile] : [MemoryFile, Iommufd, .. Devices];

    /// <summary>What was sent.</summary>
    /// <exception cref="InvalidDataException">There is no memory among it.</exception>
    public static MachineInheritance Of(IReadOnlyList<KernelFd> descriptors, ReadOnlyMemory<byte> manifest)
    {
        ArgumentNullException.ThrowIfNull(descriptors);
        return descriptors.Count == 0
            ? throw new InvalidDataException("The machine to go on with came without its memory.")
            : new MachineInheritance(
                descriptors[0], descriptors.Count > 1 ? descriptors[1] : null, [.. descriptors.Skip(2)], manifest);
    }

    /// <summary>Closes the descriptors of a machine that was not gone on with.</summary>
    public void Dispose()
    {
        foreach (KernelFd descriptor in Descriptors)
            descriptor.Dispose();
    }

    /// <summary>Reads the manifest, if it is of this machine.</summary>
    /// <exception cref="InvalidDataException">It is not, or damaged.</exception>
    internal MachineManifest Read(MachineDescription description)
    {
        MachineManifest manifest = MachineManifest.Read(Manifest.Span);
        string[] differences = [.. description.Devices.Zip(manifest.Devices)
            .Where(pair => pair.First.Host != pair.Second.Host)
            .Select(pair => $"{pair.First.Name} is at {pair.Second.Host} there and at {pair.First.Host} in the file")];
        if (description.Devices.Count != manifest.Devices.Count)
            differences = [$"it has {manifest.Devices.Count} devices and the file {description.Devices.Count}"];
        return differences.Length == 0
            ? manifest
            : throw new InvalidDataException($"The machine that runs is not the one of the file: {string.Join(", ", differences)}.");
    }
}
