using System.Globalization;
using System.Text;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>Spells out ioctl requests and arguments.</summary>
internal static class TraceIoctl
{
    private static readonly IoctlRequest[] IommufdNames =
    [
        IommufdRequests.Destroy, IommufdRequests.IoasAlloc, IommufdRequests.IoasAllowIovas, IommufdRequests.IoasCopy,
        IommufdRequests.IoasIovaRanges, IommufdRequests.IoasMap, IommufdRequests.IoasUnmap, IommufdRequests.Option,
        IommufdRequests.VfioIoas, IommufdRequests.HwptAlloc, IommufdRequests.GetHwInfo,
        IommufdRequests.HwptSetDirtyTracking, IommufdRequests.HwptGetDirtyBitmap, IommufdRequests.HwptInvalidate,
        IommufdRequests.FaultQueueAlloc, IommufdRequests.IoasMapFile, IommufdRequests.ViommuAlloc,
        IommufdRequests.VdeviceAlloc, IommufdRequests.IoasChangeProcess, IommufdRequests.VeventqAlloc,
        IommufdRequests.HwQueueAlloc, IommufdRequests.IoasNoiommuGetPa,
    ];

    private static readonly IoctlRequest[] ContainerNames =
    [
        VfioRequests.GetApiVersion, VfioRequests.CheckExtension, VfioRequests.SetIommu, VfioRequests.IommuGetInfo,
        VfioRequests.IommuMapDma, VfioRequests.IommuUnmapDma, VfioRequests.IommuDirtyPages,
    ];

    private static readonly IoctlRequest[] GroupNames =
    [
        VfioRequests.GroupGetStatus, VfioRequests.GroupSetContainer, VfioRequests.GroupUnsetContainer,
        VfioRequests.GroupGetDeviceFd,
    ];

    private static readonly IoctlRequest[] DeviceNames =
    [
        VfioRequests.DeviceGetInfo, VfioRequests.DeviceGetRegionInfo, VfioRequests.DeviceGetIrqInfo,
        VfioRequests.DeviceSetIrqs, VfioRequests.DeviceReset, VfioRequests.DeviceGetPciHotResetInfo,
        VfioRequests.DevicePciHotReset, VfioRequests.DeviceQueryGfxPlane, VfioRequests.DeviceGetGfxDmabuf,
        VfioRequests.DeviceIoeventfd, VfioRequests.DeviceFeature, VfioRequests.DeviceBindIommufd,
        VfioRequests.DeviceAttachIommufdPt, VfioRequests.DeviceDetachIommufdPt,
    ];

    private static readonly IoctlRequest[] UserfaultfdNames =
    [
        UserfaultfdRequests.Api, UserfaultfdRequests.Register, UserfaultfdRequests.Unregister, UserfaultfdRequests.Wake,
        UserfaultfdRequests.Copy, UserfaultfdRequests.Zeropage, UserfaultfdRequests.Writeprotect,
        UserfaultfdRequests.Continue,
    ];

    /// <summary>The header's name of a request on such a descriptor, or null.</summary>
    internal static string? NameOf(TracedKind kind, uint request) => kind switch
    {
        // A descriptor of /dev/iommu also answers the requests of a VFIO container.
        TracedKind.Iommufd => Find(IommufdNames, request) ?? Find(ContainerNames, request),
        TracedKind.VfioContainer => Find(ContainerNames, request),
        TracedKind.VfioGroup => Find(GroupNames, request),
        TracedKind.VfioDevice => Find(DeviceNames, request),
        TracedKind.VfioMigrationData => Find([VfioRequests.MigGetPrecopyInfo], request),
        TracedKind.UserfaultfdDevice => Find([UserfaultfdRequests.New], request),
        TracedKind.Userfaultfd => Find(UserfaultfdNames, request),
        // Their numbers do not overlap.
        TracedKind.Received => Find(IommufdNames, request) ?? Find(DeviceNames, request),
        TracedKind.Pagemap => Find([PagemapRequests.Scan], request),
        _ => null,
    };

    /// <summary>
    /// The argument in braces; what the call changed as <c>before =&gt; after</c>, or only after if it was 0.
    /// </summary>
    internal static string Argument(string? name, ReadOnlySpan<byte> before, ReadOnlySpan<byte> after)
    {
        if (name is null)
            return TraceValues.Bytes(before);
        if (name == VfioRequests.GroupGetDeviceFd.Name)
            return TraceValues.Bytes(before.TrimEnd((byte)0));
        var text = new StringBuilder("{");
        int end = Fields(text, TraceLayouts.OfRequest(name), before, after);
        uint flags = before.Length >= 8 ? (uint)TraceValues.Number(before[4..8]) : 0;
        end += Fields(text, TraceLayouts.OfTail(name, flags), before[end..], after[end..]);
        if (name == VfioRequests.DeviceSetIrqs.Name && (flags & (uint)VfioIrqSetFlags.DataEventfd) != 0)
            end += Descriptors(text, before[end..]);
        if (end < before.Length)
            text.Append(text.Length > 1 ? ", " : "").Append(TraceValues.Bytes(after[end..]));
        return text.Append('}').ToString();
    }

    private static string? Find(ReadOnlySpan<IoctlRequest> names, uint request)
    {
        foreach (IoctlRequest known in names)
        {
            if (known.Value == request)
                return known.Name;
        }

        return null;
    }

    /// <returns>Bytes that the fields took; one that does not fit any more ends them.</returns>
    private static int Fields(
        StringBuilder text, ReadOnlySpan<TraceField> fields, ReadOnlySpan<byte> before, ReadOnlySpan<byte> after)
    {
        int end = 0;
        foreach (TraceField field in fields)
        {
            if (field.Offset + field.Width > before.Length)
                break;
            end = field.Offset + field.Width;
            ulong old = TraceValues.Number(before[field.Offset..end]);
            ulong now = TraceValues.Number(after[field.Offset..end]);
            bool reserved = field.Name.StartsWith("__reserved", StringComparison.Ordinal)
                || field.Name is "reserved" or "pad";
            if (reserved && old == 0 && now == 0)
                continue;
            text.Append(text.Length > 1 ? ", " : "").Append(field.Name).Append('=');
            if (old != now && old != 0)
                text.Append(Show(field, old)).Append(" => ");
            text.Append(Show(field, now));
        }

        return end;
    }

    private static int Descriptors(StringBuilder text, ReadOnlySpan<byte> bytes)
    {
        int count = bytes.Length / sizeof(int);
        text.Append(", fds=[");
        for (int index = 0; index < count; index++)
        {
            int fd = unchecked((int)TraceValues.Number(bytes.Slice(index * sizeof(int), sizeof(int))));
            text.Append(index == 0 ? "" : ", ").Append(fd.ToString(CultureInfo.InvariantCulture));
        }

        text.Append(']');
        return count * sizeof(int);
    }

    private static string Show(TraceField field, ulong value) =>
        field.Format is null ? value.ToString(CultureInfo.InvariantCulture) : field.Format(value);
}
