using System.Collections.Frozen;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>One field of a traced argument.</summary>
/// <param name="Format">How its number is shown, or null for decimal.</param>
internal sealed record TraceField(string Name, int Offset, int Width, Func<ulong, string>? Format);

/// <summary>The arguments that a trace can spell out, as the headers lay them out.</summary>
/// <remarks>
/// A layout lists the fields in order without gaps: <c>NAME:WIDTH</c>, then <c>x</c> for hexadecimal, <c>s</c> for
/// signed (descriptors), or <c>=</c> and the C# name of the flags. A test compares every layout with the size of the
/// Abi struct.
/// </remarks>
internal static class TraceLayouts
{
    private static readonly Func<ulong, string> Operation = TraceValues.Flags<VfioDeviceFeatureFlags>();

    private static readonly Func<ulong, string> Index = TraceValues.Enumeration<VfioDeviceFeatureIndex>();

    private static readonly FrozenDictionary<string, Func<ulong, string>> Formats =
        new Dictionary<string, Func<ulong, string>>
        {
            ["x"] = TraceValues.Hex,
            ["MapFlags"] = TraceValues.Flags<IommuIoasMapFlags>(),
            ["OptionId"] = TraceValues.Enumeration<IommuOptionId>(),
            ["OptionOp"] = TraceValues.Enumeration<IommuOptionOp>(),
            ["VfioIoasOp"] = TraceValues.Enumeration<IommuVfioIoasOp>(),
            ["HwptFlags"] = TraceValues.Flags<IommuHwptAllocFlags>(),
            ["HwptData"] = TraceValues.Enumeration<IommuHwptDataType>(),
            ["HwInfoFlags"] = TraceValues.Flags<IommuHwInfoFlags>(),
            ["HwInfoType"] = TraceValues.Enumeration<IommuHwInfoType>(),
            ["HwCaps"] = TraceValues.Flags<IommuHwCapabilities>(),
            ["SetDirty"] = TraceValues.Flags<IommuHwptSetDirtyTrackingFlags>(),
            ["GetDirty"] = TraceValues.Flags<IommuHwptGetDirtyBitmapFlags>(),
            ["GroupFlags"] = TraceValues.Flags<VfioGroupFlags>(),
            ["DeviceFlags"] = TraceValues.Flags<VfioDeviceFlags>(),
            ["RegionFlags"] = TraceValues.Flags<VfioRegionInfoFlags>(),
            ["IrqFlags"] = TraceValues.Flags<VfioIrqInfoFlags>(),
            ["IrqSet"] = TraceValues.Flags<VfioIrqSetFlags>(),
            ["BindFlags"] = TraceValues.Flags<VfioDeviceBindFlags>(),
            ["AttachFlags"] = TraceValues.Flags<VfioDeviceAttachFlags>(),
            ["DetachFlags"] = TraceValues.Flags<VfioDeviceDetachFlags>(),
            ["Precopy"] = TraceValues.Flags<VfioPrecopyInfoFlags>(),
            ["HotReset"] = TraceValues.Flags<VfioPciHotResetFlags>(),
            ["Ioeventfd"] = TraceValues.Flags<VfioDeviceIoeventfdFlags>(),
            ["IommuInfo"] = TraceValues.Flags<VfioIommuInfoFlags>(),
            ["DmaMap"] = TraceValues.Flags<VfioDmaMapFlags>(),
            ["DmaUnmap"] = TraceValues.Flags<VfioDmaUnmapFlags>(),
            ["DirtyPages"] = TraceValues.Flags<VfioIommuDirtyPagesFlags>(),
            ["Feature"] = FeatureFlags,
            ["MigrationFlags"] = TraceValues.Flags<VfioMigrationFlags>(),
            ["MigState"] = TraceValues.Enumeration<VfioDeviceMigState>(),
            ["BusMaster"] = TraceValues.Enumeration<VfioBusMasterOp>(),
            ["Uffd"] = TraceValues.Flags<UffdFeatures>(),
            ["UffdRegister"] = TraceValues.Flags<UffdioRegisterMode>(),
            ["UffdProtect"] = TraceValues.Flags<UffdioWriteprotectMode>(),
            ["UffdCopy"] = TraceValues.Flags<UffdioCopyMode>(),
            ["Scan"] = TraceValues.Flags<PagemapScanFlags>(),
            ["Page"] = TraceValues.Flags<PageCategories>(),
        }.ToFrozenDictionary();

    private static readonly FrozenDictionary<string, TraceField[]> ByRequest = Parse(new()
    {
        ["IOMMU_DESTROY"] = "size:4 id:4",
        ["IOMMU_IOAS_ALLOC"] = "size:4 flags:4x out_ioas_id:4",
        ["IOMMU_IOAS_ALLOW_IOVAS"] = "size:4 ioas_id:4 num_iovas:4 __reserved:4 allowed_iovas:8x",
        ["IOMMU_IOAS_COPY"] =
            "size:4 flags:4=MapFlags dst_ioas_id:4 src_ioas_id:4 length:8x dst_iova:8x src_iova:8x",
        ["IOMMU_IOAS_IOVA_RANGES"] =
            "size:4 ioas_id:4 num_iovas:4 __reserved:4 allowed_iovas:8x out_iova_alignment:8x",
        ["IOMMU_IOAS_MAP"] = "size:4 flags:4=MapFlags ioas_id:4 __reserved:4 user_va:8x length:8x iova:8x",
        ["IOMMU_IOAS_UNMAP"] = "size:4 ioas_id:4 iova:8x length:8x",
        ["IOMMU_OPTION"] = "size:4 option_id:4=OptionId op:2=OptionOp __reserved:2 object_id:4 val64:8",
        ["IOMMU_VFIO_IOAS"] = "size:4 ioas_id:4 op:2=VfioIoasOp __reserved:2",
        ["IOMMU_HWPT_ALLOC"] =
            "size:4 flags:4=HwptFlags dev_id:4 pt_id:4 out_hwpt_id:4 __reserved:4 data_type:4=HwptData data_len:4"
            + " data_uptr:8x fault_id:4 __reserved2:4",
        ["IOMMU_GET_HW_INFO"] =
            "size:4 flags:4=HwInfoFlags dev_id:4 data_len:4 data_uptr:8x out_data_type:4=HwInfoType"
            + " out_max_pasid_log2:1 __reserved:3 out_capabilities:8=HwCaps",
        ["IOMMU_HWPT_SET_DIRTY_TRACKING"] = "size:4 flags:4=SetDirty hwpt_id:4 __reserved:4",
        ["IOMMU_HWPT_GET_DIRTY_BITMAP"] =
            "size:4 hwpt_id:4 flags:4=GetDirty __reserved:4 iova:8x length:8x page_size:8 data:8x",
        ["IOMMU_HWPT_INVALIDATE"] =
            "size:4 hwpt_id:4 data_uptr:8x data_type:4 entry_len:4 entry_num:4 __reserved:4",
        ["IOMMU_FAULT_QUEUE_ALLOC"] = "size:4 flags:4x out_fault_id:4 out_fault_fd:4",
        ["IOMMU_IOAS_MAP_FILE"] = "size:4 flags:4=MapFlags ioas_id:4 fd:4s start:8x length:8x iova:8x",
        ["IOMMU_VIOMMU_ALLOC"] =
            "size:4 flags:4x type:4 dev_id:4 hwpt_id:4 out_viommu_id:4 data_len:4 __reserved:4 data_uptr:8x",
        ["IOMMU_VDEVICE_ALLOC"] = "size:4 viommu_id:4 dev_id:4 out_vdevice_id:4 virt_id:8x",
        ["IOMMU_IOAS_CHANGE_PROCESS"] = "size:4 __reserved:4",
        ["IOMMU_VEVENTQ_ALLOC"] =
            "size:4 flags:4x viommu_id:4 type:4 veventq_depth:4 out_veventq_id:4 out_veventq_fd:4 __reserved:4",
        ["IOMMU_HW_QUEUE_ALLOC"] =
            "size:4 flags:4x viommu_id:4 type:4 index:4 out_hw_queue_id:4 nesting_parent_iova:8x length:8x",
        ["IOMMU_IOAS_NOIOMMU_GET_PA"] = "size:4 flags:4x ioas_id:4 __reserved:4 iova:8x length:8x out_phys:8x",
        ["VFIO_GROUP_GET_STATUS"] = "argsz:4 flags:4=GroupFlags",
        ["VFIO_GROUP_SET_CONTAINER"] = "container:4s",
        ["VFIO_DEVICE_GET_INFO"] = "argsz:4 flags:4=DeviceFlags num_regions:4 num_irqs:4 cap_offset:4 pad:4",
        ["VFIO_DEVICE_GET_REGION_INFO"] =
            "argsz:4 flags:4=RegionFlags index:4 cap_offset:4 size:8x offset:8x",
        ["VFIO_DEVICE_GET_IRQ_INFO"] = "argsz:4 flags:4=IrqFlags index:4 count:4",
        ["VFIO_DEVICE_SET_IRQS"] = "argsz:4 flags:4=IrqSet index:4 start:4 count:4",
        ["VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"] = "argsz:4 flags:4=HotReset count:4",
        ["VFIO_DEVICE_PCI_HOT_RESET"] = "argsz:4 flags:4x count:4",
        ["VFIO_DEVICE_IOEVENTFD"] = "argsz:4 flags:4=Ioeventfd offset:8x data:8x fd:4s reserved:4",
        ["VFIO_DEVICE_FEATURE"] = "argsz:4 flags:4=Feature",
        ["VFIO_DEVICE_BIND_IOMMUFD"] = "argsz:4 flags:4=BindFlags iommufd:4s out_devid:4 token_uuid_ptr:8x",
        ["VFIO_DEVICE_ATTACH_IOMMUFD_PT"] = "argsz:4 flags:4=AttachFlags pt_id:4 pasid:4",
        ["VFIO_DEVICE_DETACH_IOMMUFD_PT"] = "argsz:4 flags:4=DetachFlags pasid:4",
        ["VFIO_MIG_GET_PRECOPY_INFO"] = "argsz:4 flags:4=Precopy initial_bytes:8 dirty_bytes:8",
        ["VFIO_IOMMU_GET_INFO"] = "argsz:4 flags:4=IommuInfo iova_pgsizes:8x cap_offset:4 pad:4",
        ["VFIO_IOMMU_MAP_DMA"] = "argsz:4 flags:4=DmaMap vaddr:8x iova:8x size:8x",
        ["VFIO_IOMMU_UNMAP_DMA"] = "argsz:4 flags:4=DmaUnmap iova:8x size:8x",
        ["VFIO_IOMMU_DIRTY_PAGES"] = "argsz:4 flags:4=DirtyPages",
        ["UFFDIO_API"] = "api:8x features:8=Uffd ioctls:8x",
        ["UFFDIO_REGISTER"] = "start:8x len:8x mode:8=UffdRegister ioctls:8x",
        ["UFFDIO_UNREGISTER"] = "start:8x len:8x",
        ["UFFDIO_WAKE"] = "start:8x len:8x",
        ["UFFDIO_WRITEPROTECT"] = "start:8x len:8x mode:8=UffdProtect",
        ["UFFDIO_COPY"] = "dst:8x src:8x len:8x mode:8=UffdCopy copy:8s",
        ["UFFDIO_ZEROPAGE"] = "start:8x len:8x mode:8x zeropage:8s",
        ["UFFDIO_CONTINUE"] = "start:8x len:8x mode:8x mapped:8s",
        ["PAGEMAP_SCAN"] =
            "size:8 flags:8=Scan start:8x end:8x walk_end:8x vec:8x vec_len:8 max_pages:8 category_inverted:8=Page"
            + " category_mask:8=Page category_anyof_mask:8=Page return_mask:8=Page",
    });

    private static readonly FrozenDictionary<string, TraceField[]> ByFeature = Parse(new()
    {
        [nameof(VfioDeviceFeatureIndex.Migration)] = "flags:8=MigrationFlags",
        [nameof(VfioDeviceFeatureIndex.MigDeviceState)] = "device_state:4=MigState data_fd:4s",
        [nameof(VfioDeviceFeatureIndex.MigDataSize)] = "stop_copy_length:8",
        [nameof(VfioDeviceFeatureIndex.DmaLoggingStart)] = "page_size:8 num_ranges:4 __reserved:4 ranges:8x",
        [nameof(VfioDeviceFeatureIndex.DmaLoggingReport)] = "iova:8x length:8x page_size:8 bitmap:8x",
        [nameof(VfioDeviceFeatureIndex.LowPowerEntryWithWakeup)] = "wakeup_eventfd:4s reserved:4",
        [nameof(VfioDeviceFeatureIndex.BusMaster)] = "op:4=BusMaster",
        [nameof(VfioDeviceFeatureIndex.DmaBuf)] = "region_index:4 open_flags:4x flags:4x nr_ranges:4",
    });

    private static readonly TraceField[] DirtyBitmapGet =
        ParseLayout("iova:8x size:8x bitmap.pgsize:8 bitmap.size:8 bitmap.data:8x");

    private static readonly TraceField[] Bitmap = ParseLayout("bitmap.pgsize:8 bitmap.size:8 bitmap.data:8x");

    private static readonly TraceField[] Nothing = [];

    /// <summary>The fields of a request's argument; empty when it is not known.</summary>
    internal static ReadOnlySpan<TraceField> OfRequest(string name) => ByRequest.GetValueOrDefault(name, Nothing);

    /// <summary>The fields that follow the ones of <see cref="OfRequest"/>, by the argument's own flags.</summary>
    internal static ReadOnlySpan<TraceField> OfTail(string name, uint flags) => name switch
    {
        "VFIO_DEVICE_FEATURE" => ByFeature.GetValueOrDefault(FeatureOf(flags).ToString(), Nothing),
        "VFIO_IOMMU_DIRTY_PAGES" => DirtyBitmapGet,
        "VFIO_IOMMU_UNMAP_DMA" => Bitmap,
        _ => Nothing,
    };

    /// <summary>Every request with a layout, for the test that compares them with the Abi.</summary>
    internal static IEnumerable<string> Requests => ByRequest.Keys;

    private static VfioDeviceFeatureIndex FeatureOf(ulong flags) =>
        (VfioDeviceFeatureIndex)(flags & (uint)VfioDeviceFeatureFlags.Mask);

    private static string FeatureFlags(ulong flags)
    {
        string operation = Operation(flags & ~(ulong)VfioDeviceFeatureFlags.Mask);
        return $"{operation}|{Index(flags & (uint)VfioDeviceFeatureFlags.Mask)}";
    }

    private static FrozenDictionary<string, TraceField[]> Parse(Dictionary<string, string> layouts) =>
        layouts.ToFrozenDictionary(static entry => entry.Key, static entry => ParseLayout(entry.Value));

    private static TraceField[] ParseLayout(string layout)
    {
        var fields = new List<TraceField>();
        int offset = 0;
        foreach (string part in layout.Split(' '))
        {
            int colon = part.IndexOf(':', StringComparison.Ordinal);
            int width = part[colon + 1] - '0';
            string format = part[(colon + 2)..].TrimStart('=');
            fields.Add(new TraceField(part[..colon], offset, width, format switch
            {
                "" => null,
                "s" => value => Signed(value, width),
                _ => Formats[format],
            }));
            offset += width;
        }

        return [.. fields];
    }

    private static string Signed(ulong value, int width) =>
        (unchecked((long)(value << (64 - 8 * width))) >> (64 - 8 * width))
            .ToString(System.Globalization.CultureInfo.InvariantCulture);
}
