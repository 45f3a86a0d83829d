using System.Runtime.InteropServices;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>Operations of IOMMU_TEST_CMD (drivers/iommu/iommufd/iommufd_test.h of Linux 7.3; no uAPI header).</summary>
internal enum TestDomainOperation : uint
{
    AddReserved = 1,
    CreateDevice = 2,
    CheckMap = 3,
    CheckPins = 4,
    CreateAccess = 5,
    DestroyAccessPages = 6,
    AccessPages = 7,
    AccessReadWrite = 8,
    SetMemoryLimit = 9,
    ReplaceDevice = 10,
    ReplaceAccess = 11,
    CreateDeviceWithFlags = 12,
    SetDirty = 13,
    CheckIotlb = 14,
    TriggerFault = 15,
    CheckDeviceCache = 16,
    TriggerEvent = 17,
    AttachPasid = 18,
    ReplacePasid = 19,
    DetachPasid = 20,
    CheckPasid = 21,
    GetDmaBuf = 22,
    RevokeDmaBuf = 23,
}

/// <summary>
/// The argument of IOMMU_TEST_CMD: a head of four words of 32 bits, a union of 48 bytes, and a last word that only
/// marks the end. 72 bytes, of which 68 must be given.
/// </summary>
/// <remarks>
/// <code>
/// 0 size | 4 op | 8 id | 12 reserved | 16 union: Word0 .. Word5 (64 bits each) | 64 last | 68 padding
/// </code>
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal struct TestDomainCommand
{
    public const uint MinimumSize = 68;

    public uint Size;
    public TestDomainOperation Operation;
    public uint Id;
    public uint Reserved;
    public ulong Word0;
    public ulong Word1;
    public ulong Word2;
    public ulong Word3;
    public ulong Word4;
    public ulong Word5;
    public uint Last;
    public uint Padding;

    /// <summary>The first 32 bits of the union.</summary>
    public uint First
    {
        readonly get => unchecked((uint)Word0);
        set => Word0 = (Word0 & 0xFFFF_FFFF_0000_0000) | value;
    }

    /// <summary>The second 32 bits.</summary>
    public uint Second
    {
        readonly get => (uint)(Word0 >> 32);
        set => Word0 = (Word0 & 0xFFFF_FFFF) | (ulong)value << 32;
    }

    /// <summary>The third 32 bits.</summary>
    public uint Third
    {
        readonly get => unchecked((uint)Word1);
        set => Word1 = (Word1 & 0xFFFF_FFFF_0000_0000) | value;
    }

    /// <summary>The fourth 32 bits.</summary>
    public readonly uint Fourth => (uint)(Word1 >> 32);
}
