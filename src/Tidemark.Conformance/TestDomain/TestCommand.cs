using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Conformance.TestDomain;

/// <summary>What IOMMU_TEST_CMD can do. The numbers are of the kernel source (iommufd_test.h), in no uAPI header.</summary>
internal enum TestOperation : uint
{
    Unknown = 0,
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
/// The argument of IOMMU_TEST_CMD, as Linux 7.3 has it in drivers/iommu/iommufd/iommufd_test.h (C: iommu_test_cmd, 72
/// bytes, of which 68 must be given). Only a kernel built with CONFIG_IOMMUFD_TEST knows it.
/// </summary>
/// <remarks>
/// <code>
/// 0 size | 4 op | 8 id | 12 reserved | 16 union of 48 bytes, here six words | 64 last | 68 padding
/// </code>
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal struct TestCommand : IIoctlArgument<TestCommand>
{
    public const uint StructSize = 72;
    public const uint MinimumSize = 68;

    public uint Size;
    public TestOperation Operation;
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

    public static IoctlRequest Request { get; } = new(0x3BA0, "IOMMU_TEST_CMD");

    /// <summary>The 32-bit halves of the union's first two words.</summary>
    public readonly uint First => unchecked((uint)Word0);

    public readonly uint Second => (uint)(Word0 >> 32);

    public readonly uint Third => unchecked((uint)Word1);

    public static TestCommand Create(TestOperation operation, uint id) =>
        new() { Size = StructSize, Operation = operation, Id = id };

    /// <summary>Two 32-bit fields beside each other.</summary>
    public static ulong Pair(uint first, uint second) => first | (ulong)second << 32;
}
