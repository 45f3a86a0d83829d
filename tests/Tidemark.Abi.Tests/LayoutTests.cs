using System.Reflection;
using System.Runtime.InteropServices;

namespace Tidemark.Abi.Tests;

/// <summary>Tidemark.Abi against abi/layouts, which the compiler wrote from the kernel's own headers.</summary>
public sealed class LayoutTests
{
    // Public structs without a counterpart in the headers, and why.
    private static readonly Dictionary<Type, string> WithoutCounterpart = new()
    {
        [typeof(IoctlRequest)] = "ours: a request number with its name",
        [typeof(VfioDeviceFeaturePciVfToken)] = "the header describes the 16 bytes in words only",
        [typeof(UInt64x2)] = "a C array inside a struct",
        [typeof(UInt64x4)] = "a C array inside a struct",
        [typeof(UInt32x6)] = "a C array inside a struct",
        [typeof(Bytes3)] = "a C array inside a struct",
    };

    private static readonly LayoutTable Table = LayoutTable.Load();

    private static readonly Type[] PublicTypes = typeof(IoctlRequest).Assembly.GetExportedTypes();

    private static Type[] Structs => [.. PublicTypes.Where(t => t.IsValueType && !t.IsEnum)];

    private static Type[] Mirrored => [.. Structs.Where(t => !WithoutCounterpart.ContainsKey(t))];

    private static Type[] RequestLists =>
        [typeof(IommufdRequests), typeof(VfioRequests), typeof(UserfaultfdRequests), typeof(PagemapRequests)];

    [Fact]
    public void Every_struct_has_the_size_and_fields_of_its_C_struct()
    {
        var comparison = new LayoutComparison(Table);
        Assert.Empty(Mirrored.SelectMany(comparison.CompareStruct));
    }

    [Fact]
    public void Every_public_struct_names_its_C_struct_unless_it_has_none()
    {
        Assert.All(Mirrored, t => Assert.Single(t.GetCustomAttributes<UapiAttribute>()));
        Assert.All(WithoutCounterpart.Keys, t => Assert.Empty(t.GetCustomAttributes<UapiAttribute>()));
    }

    [Fact]
    public void Every_C_struct_of_the_table_has_exactly_one_mirror()
    {
        IEnumerable<string> ours = Mirrored.Select(t => t.GetCustomAttribute<UapiAttribute>()!.Name);
        Assert.Equal(Table.Structs.Keys.Order(StringComparer.Ordinal), ours.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Every_enumeration_member_has_the_value_of_its_C_constant()
    {
        var comparison = new LayoutComparison(Table);
        IEnumerable<string> differences = PublicTypes.Where(t => t.IsEnum).SelectMany(comparison.CompareEnum);
        Assert.Equal(["Errno.Success: the headers have no constant SUCCESS"], differences);
    }

    [Fact]
    public void Every_request_has_the_number_of_its_C_macro()
    {
        var comparison = new LayoutComparison(Table);
        Assert.Empty(RequestLists.SelectMany(comparison.CompareRequests));
    }

    [Fact]
    public void Every_C_constant_of_the_table_has_a_mirror()
    {
        var comparison = new LayoutComparison(Table);
        foreach (Type type in PublicTypes.Where(t => t.IsEnum))
            comparison.CompareEnum(type);
        foreach (Type type in RequestLists)
            comparison.CompareRequests(type);
        foreach (Type type in PublicTypes.Where(t => !t.IsEnum))
            Assert.Empty(comparison.CompareNamedConstants(type));

        Assert.Empty(Table.Constants.Keys.Except(comparison.MetConstants));
    }

    [Fact]
    public void Every_size_constant_tells_the_truth()
    {
        foreach (Type type in Structs.Where(t => t.GetField("StructSize") is not null))
        {
            uint size = (uint)type.GetField("StructSize")!.GetRawConstantValue()!;
            uint minimum = (uint)type.GetField("MinimumSize")!.GetRawConstantValue()!;
            IEnumerable<int> ends =
                LayoutComparison.FieldsOf(type).Select(StructMeasure.PlaceOf).Select(p => p.Offset + p.Size);

            Assert.Equal((uint)StructMeasure.SizeOf(type), size);
            Assert.True(ends.Contains((int)minimum), $"{type.Name}: no field ends at {minimum}");
        }
    }

    [Fact]
    public void Every_ioctl_argument_with_a_size_field_has_its_size_constants()
    {
        IEnumerable<Type> sized = Structs.Where(
            t => t.GetProperty("Request") is not null && (t.GetField("Argsz") ?? t.GetField("Size")) is not null);
        Assert.All(sized, t => Assert.NotNull(t.GetField("StructSize")));
        Assert.All(sized, t => Assert.NotNull(t.GetField("MinimumSize")));
    }

    [Fact]
    public void Every_field_is_public_and_has_a_fixed_width()
    {
        Type[] integers =
            [typeof(byte), typeof(ushort), typeof(uint), typeof(int), typeof(ulong), typeof(long)];
        foreach (FieldInfo field in Mirrored.SelectMany(LayoutComparison.FieldsOf))
        {
            Type type = field.FieldType.IsEnum ? Enum.GetUnderlyingType(field.FieldType) : field.FieldType;
            Assert.True(field.IsPublic, $"{field.DeclaringType!.Name}.{field.Name} is not public");
            Assert.True(
                integers.Contains(type) || Structs.Contains(type),
                $"{field.DeclaringType!.Name}.{field.Name} is a {type.Name}");
        }
    }

    [Fact]
    public void Create_fills_the_size_a_kernel_expects()
    {
        Assert.Equal(40u, IommuIoasMap.Create(ioasId: 1, iova: 2, userVa: 3, length: 4, flags: 0).Size);
        Assert.Equal(12u, IommuIoasAlloc.Create().Size);
        Assert.Equal(20u + 8u, VfioIrqSet.Create(VfioIrqSetFlags.DataEventfd, 0, 0, count: 2, dataLength: 8).Argsz);
        Assert.Equal(12u + 8u, VfioPciHotReset.Create(count: 2).Argsz);
        Assert.Equal(96ul, PagemapScanArgument.Create(0, 0, PagemapScanFlags.None, 0, 0).Size);
    }

    [Fact]
    public void A_bind_without_token_fits_a_kernel_that_has_no_token()
    {
        Assert.Equal(16u, VfioDeviceBindIommufd.Create(iommufd: 3).Argsz);
    }

    [Fact]
    public void A_feature_header_joins_index_and_operation()
    {
        var header = VfioDeviceFeature.Create(
            VfioDeviceFeatureIndex.DmaLoggingReport, VfioDeviceFeatureFlags.Get | VfioDeviceFeatureFlags.Probe, 32);
        Assert.Equal(0x50008u, (uint)header.Flags);
        Assert.Equal(40u, header.Argsz);
    }

    [Fact]
    public void A_wrong_struct_is_caught_field_by_field()
    {
        List<string> differences = new LayoutComparison(Table).CompareStruct(typeof(WrongIoasMap));
        Assert.Equal(
            [
                "WrongIoasMap: 32 bytes, struct iommu_ioas_map has 40",
                "WrongIoasMap.UserVa: offset 16, size 4; iommu_ioas_map.user_va: offset 16, size 8",
                "WrongIoasMap.Iova: offset 20, size 4; iommu_ioas_map.iova: offset 32, size 8",
                "WrongIoasMap.Extra: struct iommu_ioas_map has no field extra",
                "WrongIoasMap: nothing mirrors iommu_ioas_map.length",
            ],
            differences);
    }

    [Fact]
    public void Fields_that_changed_places_are_caught_though_the_sizes_agree()
    {
        List<string> differences = new LayoutComparison(Table).CompareStruct(typeof(SwappedDirtyTracking));
        Assert.Equal(2, differences.Count);
    }

    [Fact]
    public void A_struct_that_the_headers_do_not_have_is_caught()
    {
        Assert.Equal(
            ["UnknownStruct: the headers have no struct iommu_imaginary"],
            new LayoutComparison(Table).CompareStruct(typeof(UnknownStruct)));
    }

    [Fact]
    public void Wrong_constants_and_requests_are_caught()
    {
        var comparison = new LayoutComparison(Table);
        Assert.Equal(
            [
                "WrongFlags.Readable: 0x8; IOMMU_IOAS_MAP_READABLE: 0x4",
                "WrongFlags.Shiny: the headers have no constant IOMMU_IOAS_MAP_SHINY",
            ],
            comparison.CompareEnum(typeof(WrongFlags)).Order(StringComparer.Ordinal));
        Assert.Equal(
            ["WrongRequests.Destroy: 0x3b81; IOMMU_DESTROY: 0x3b80"],
            comparison.CompareRequests(typeof(WrongRequests)));
    }

    [Fact]
    public void A_malformed_table_is_refused()
    {
        Assert.Throws<FormatException>(() => LayoutTable.Parse(["struct iommu_destroy size"]));
    }

    [Theory]
    [InlineData("IoasId", "ioas_id")]
    [InlineData("RunningP2P", "running_p2p")]
    [InlineData("PreCopyP2P", "pre_copy_p2p")]
    [InlineData("Bar0", "bar0")]
    [InlineData("E2BIG", "e2big")]
    [InlineData("VtdS1", "vtd_s1")]
    [InlineData("OutMaxPasidLog2", "out_max_pasid_log2")]
    public void Names_become_C_names_by_one_rule(string name, string expected) =>
        Assert.Equal(expected, CName.Of(name));

    private static class WrongRequests
    {
        public static IoctlRequest Destroy => new(0x3B81, "IOMMU_DESTROY");
    }

    [Uapi("IOMMU_IOAS_MAP_*")]
    private enum WrongFlags : uint
    {
        None = 0,
        FixedIova = 1,
        Readable = 8,
        Shiny = 2,
    }

    [Uapi("iommu_ioas_map")]
    [StructLayout(LayoutKind.Sequential)]
    private struct WrongIoasMap
    {
        public uint Size;
        public IommuIoasMapFlags Flags;
        public uint IoasId;
        public uint Reserved;
        public uint UserVa;
        public uint Iova;
        public ulong Extra;
    }

    [Uapi("iommu_hwpt_set_dirty_tracking")]
    [StructLayout(LayoutKind.Sequential)]
    private struct SwappedDirtyTracking
    {
        public uint Size;
        public uint HwptId;
        public IommuHwptSetDirtyTrackingFlags Flags;
        public uint Reserved;
    }

    [Uapi("iommu_imaginary")]
    [StructLayout(LayoutKind.Sequential)]
    private struct UnknownStruct
    {
        public uint Size;
    }
}
