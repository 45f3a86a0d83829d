using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Tests.Paging;

/// <summary>What each kind of IOMMU accepts, and the registers it shows.</summary>
public sealed class IommuDriverTests
{
    private const IommuHwptAllocFlags None = IommuHwptAllocFlags.None;
    private const IommuHwptAllocFlags Dirty = IommuHwptAllocFlags.DirtyTracking;
    private const IommuHwptAllocFlags Nest = IommuHwptAllocFlags.NestParent;
    private const IommuHwptAllocFlags Pasid = IommuHwptAllocFlags.Pasid;

    [Theory]
    [InlineData(SoftIommuKind.VtdLegacy, true, "0 8")]
    [InlineData(SoftIommuKind.VtdScalable, false, "0 8")]
    [InlineData(SoftIommuKind.VtdScalable, true, "0 2 8 10")]
    [InlineData(SoftIommuKind.VtdFirstStage, false, "0 8")]
    [InlineData(SoftIommuKind.VtdFirstStage, true, "0 2 8 10")]
    [InlineData(SoftIommuKind.Amd, false, "0")]
    [InlineData(SoftIommuKind.Amd, true, "0 2")]
    [InlineData(SoftIommuKind.SmmuV3, true, "0 2 8 10")]
    [InlineData(SoftIommuKind.Virtio, true, "0")]
    public void Flags_that_a_driver_accepts(SoftIommuKind kind, bool tracks, string accepted)
    {
        IommuDriver driver = Driver(kind, tracks);
        var found = new List<uint>();
        foreach (IommuHwptAllocFlags flags in (IommuHwptAllocFlags[])
            [None, Nest, Dirty, Dirty | Nest, Pasid, Pasid | Nest, Pasid | Dirty, Pasid | Dirty | Nest])
        {
            Errno errno = driver.Choose(flags, hasData: false, out PageTableFormat? format);
            Assert.Equal(errno == Errno.Success, format is not null);
            Assert.True(errno is Errno.Success or Errno.EOPNOTSUPP);
            Assert.Equal(Errno.EOPNOTSUPP, driver.Choose(flags, hasData: true, out _));
            if (format is null)
                continue;
            found.Add((uint)flags);
            Assert.Equal((flags & Dirty) != 0, format.DirtyTracking);
        }

        Assert.Equal(accepted, string.Join(' ', found));
    }

    [Theory]
    [InlineData(SoftIommuKind.VtdLegacy, 48, 0x80D2_008C_222F_0606ul, 0xF0_0F4Aul)]
    [InlineData(SoftIommuKind.VtdScalable, 48, 0x80D2_008C_222F_0606ul, 0x4800_80F0_0F4Aul)]
    [InlineData(SoftIommuKind.VtdFirstStage, 48, 0x81D2_008C_222F_0606ul, 0x8998_00F0_0F4Aul)]
    [InlineData(SoftIommuKind.VtdScalable, 39, 0x80D2_008C_2226_0206ul, 0x4800_80F0_0F4Aul)]
    [InlineData(SoftIommuKind.VtdScalable, 57, 0x80D2_008C_2238_0E06ul, 0x4800_80F0_0F4Aul)]
    public void Vtds_registers_are_those_of_QEMU(
        SoftIommuKind kind, int width, ulong capability, ulong extendedCapability)
    {
        var driver = new VtdDriver(new SoftIommuUnit("u") { Kind = kind, AddressWidth = width, DirtyTracking = false });
        Assert.Equal((capability, extendedCapability), (driver.CapabilityRegister, driver.ExtendedCapabilityRegister));
        Span<byte> info = stackalloc byte[IommuDriver.LargestInfo];
        Assert.Equal(24, driver.CopyInfo(info));
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(info));
        Assert.Equal(capability, BinaryPrimitives.ReadUInt64LittleEndian(info[8..]));
        Assert.Equal(extendedCapability, BinaryPrimitives.ReadUInt64LittleEndian(info[16..]));
    }

    [Fact]
    public void Registers_tell_of_dirty_tracking()
    {
        Assert.Equal(
            0x1_6800_80F0_0F4Aul,
            new VtdDriver(new SoftIommuUnit("u")).ExtendedCapabilityRegister);
        Assert.Equal(
            0x29D7ul,
            new AmdDriver(new SoftIommuUnit("u") { Kind = SoftIommuKind.Amd, DirtyTracking = false }).ExtendedFeatures);
        Assert.Equal(
            0x0012_0000_0000_29D3ul,
            new AmdDriver(new SoftIommuUnit("u") { Kind = SoftIommuKind.Amd }).ExtendedFeatures);
    }

    [Fact]
    public void Devices_use_tables_that_their_unit_can_walk_and_no_others()
    {
        IommuDriver plain = Driver(SoftIommuKind.VtdScalable, tracks: false);
        IommuDriver tracking = Driver(SoftIommuKind.VtdScalable, tracks: true);
        IommuDriver five = IommuDriver.For(new SoftIommuUnit("u") { AddressWidth = 57 });
        IommuDriver firstStage = Driver(SoftIommuKind.VtdFirstStage, tracks: false);
        IommuDriver amd = Driver(SoftIommuKind.Amd, tracks: true);
        IommuDriver smmu = Driver(SoftIommuKind.SmmuV3, tracks: true);
        IommuDriver otherSmmu = Driver(SoftIommuKind.SmmuV3, tracks: true);
        Assert.True(tracking.Accepts(Choose(plain, None), plain));
        Assert.False(plain.Accepts(Choose(tracking, Dirty), tracking));
        Assert.True(plain.Accepts(Choose(tracking, None), tracking));
        Assert.True(five.Accepts(Choose(tracking, Dirty), tracking));
        Assert.False(tracking.Accepts(Choose(five, Dirty), five));
        Assert.False(tracking.Accepts(Choose(firstStage, None), firstStage));
        Assert.False(firstStage.Accepts(Choose(plain, None), plain));
        Assert.False(amd.Accepts(Choose(tracking, None), tracking));
        Assert.True(amd.Accepts(Choose(amd, Dirty), Driver(SoftIommuKind.Amd, tracks: true)));
        Assert.False(Driver(SoftIommuKind.Amd, tracks: false).Accepts(Choose(amd, Dirty), amd));
        Assert.True(smmu.Accepts(Choose(smmu, None), smmu));
        Assert.False(otherSmmu.Accepts(Choose(smmu, None), smmu));
    }

    [Fact]
    public void The_paravirtual_IOMMU_keeps_its_mappings_in_tables()
    {
        IommuDriver driver = Driver(SoftIommuKind.Virtio, tracks: true);
        PageTableFormat format = Choose(driver, None);
        Assert.Equal((PageTableLayout.VtdSecondStage, 0x7F_FFFF_FFFFul), (format.Layout, format.LastIova));
        // Every size is told, though a table has three.
        Assert.Equal(~0xFFFul, format.PageSizes);
        using var physical = new PhysicalMemory(new Tidemark.Kernel.Linux.LinuxKernel());
        using IoPageTable table = IoPageTable.TryCreate(physical, format)!;
        Assert.Equal(Errno.Success, table.Map(0, 0, 4 << 20, read: true, write: true, largeLeaves: true));
        Assert.True(table.TryFind(0, out _, out ulong leaf));
        Assert.Equal(2ul << 20, leaf);
        Assert.Equal(0, driver.CopyInfo(stackalloc byte[IommuDriver.LargestInfo]));
        Assert.False(driver.Accepts(format, Driver(SoftIommuKind.Virtio, tracks: true)));
    }

    [Fact]
    public void Apertures_and_reserved_regions_are_those_of_Linux()
    {
        Assert.Equal(0xFFFF_FFFF_FFFFul, Choose(Driver(SoftIommuKind.VtdLegacy, false), None).LastIova);
        Assert.Equal(0x7FFF_FFFF_FFFFul, Choose(Driver(SoftIommuKind.VtdFirstStage, false), None).LastIova);
        Assert.Equal(ulong.MaxValue, Choose(Driver(SoftIommuKind.Amd, false), None).LastIova);
        Assert.Equal(0xFFFF_FFFF_FFFFul, Choose(Driver(SoftIommuKind.SmmuV3, true), None).LastIova);
        Assert.Equal([(0xFEE0_0000ul, 0xFEEF_FFFFul)], Driver(SoftIommuKind.VtdScalable, true).ReservedRegions);
        Assert.Equal(
            [(0xFEE0_0000ul, 0xFEEF_FFFFul), (0xFD_0000_0000ul, 0xFF_FFFF_FFFFul)],
            Driver(SoftIommuKind.Amd, true).ReservedRegions);
        Assert.Equal([(0x0800_0000ul, 0x080F_FFFFul)], Driver(SoftIommuKind.SmmuV3, true).ReservedRegions);
    }

    [Theory]
    [InlineData(SoftIommuKind.VtdScalable, 40)]
    [InlineData((SoftIommuKind)99, 48)]
    public void A_unit_that_can_not_be_is_refused(SoftIommuKind kind, int width) => Assert.Throws<ArgumentException>(
        () => IommuDriver.For(new SoftIommuUnit("u") { Kind = kind, AddressWidth = width }));

    private static IommuDriver Driver(SoftIommuKind kind, bool tracks) =>
        IommuDriver.For(new SoftIommuUnit("u") { Kind = kind, DirtyTracking = tracks });

    private static PageTableFormat Choose(IommuDriver driver, IommuHwptAllocFlags flags)
    {
        Assert.Equal(Errno.Success, driver.Choose(flags, hasData: false, out PageTableFormat? format));
        return format!;
    }
}
