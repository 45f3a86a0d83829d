using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// An IOMMU group of which an iommufd has devices, and what they are attached to: each PASID, and with 0 the devices
/// themselves, to one table for the whole group. Guarded by the context's lock.
/// </summary>
internal sealed class BoundGroup(IommuGroup iommu)
{
    private readonly Dictionary<uint, GroupAttachment> _attached = [];

    public IommuGroup Iommu => iommu;

    /// <summary>Attached PASIDs, and 0. A copy.</summary>
    public uint[] Pasids => [.. _attached.Keys];

    public GroupAttachment? Find(uint pasid) => _attached.GetValueOrDefault(pasid);

    /// <summary>The first device of the group gets there: with it all of them do.</summary>
    public GroupAttachment Begin(uint pasid, AttachableTable table)
    {
        var attachment = new GroupAttachment(table);
        _attached.Add(pasid, attachment);
        if (pasid == 0)
            AddTo(table);
        return attachment;
    }

    /// <summary>The last device left: for all of them DMA is blocked.</summary>
    public void End(uint pasid)
    {
        if (!_attached.Remove(pasid, out GroupAttachment? attachment) || pasid != 0)
            return;
        iommu.SetTable(null);
        RemoveFrom(attachment.Table);
    }

    /// <summary>All devices of the group are behind another table from here on.</summary>
    public void Move(uint pasid, GroupAttachment attachment, AttachableTable table)
    {
        AttachableTable previous = attachment.Table;
        attachment.Table = table;
        if (pasid != 0)
            return;
        AddTo(table);
        RemoveFrom(previous);
    }

    private void AddTo(AttachableTable table)
    {
        foreach (DevicePort port in iommu.Ports)
            table.AddPort(port);
    }

    private void RemoveFrom(AttachableTable table)
    {
        foreach (DevicePort port in iommu.Ports)
            table.RemovePort(port);
    }
}

/// <summary>A table that a group is behind, and the bound devices that asked for it: each is a user of it.</summary>
internal sealed class GroupAttachment(AttachableTable table)
{
    public AttachableTable Table { get; set; } = table;

    public List<BoundDevice> Devices { get; } = [];
}
