using System.Runtime.CompilerServices;

namespace Tidemark.Abi;

/// <summary>Two 64-bit words in a row, as a C array inside a struct.</summary>
[InlineArray(2)]
public struct UInt64x2
{
    private ulong _first;
}

/// <summary>Four 64-bit words in a row, as a C array inside a struct.</summary>
[InlineArray(4)]
public struct UInt64x4
{
    private ulong _first;
}

/// <summary>Six 32-bit words in a row, as a C array inside a struct.</summary>
[InlineArray(6)]
public struct UInt32x6
{
    private uint _first;
}

/// <summary>Three bytes in a row, as a C array inside a struct.</summary>
[InlineArray(3)]
public struct Bytes3
{
    private byte _first;
}
