using System.Globalization;

namespace Tidemark.Memory;

/// <summary>An address as a device's DMA uses it, translated by the IOMMU. In bytes.</summary>
public readonly record struct Iova(ulong Value)
{
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"0x{Value:x}");
}

/// <summary>An address in the guest's physical memory. In bytes.</summary>
public readonly record struct GuestPhysicalAddress(ulong Value)
{
    /// <summary>The number of the guest page that holds this address.</summary>
    public ulong Page => Value >> GuestPage.Shift;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"0x{Value:x}");
}

/// <summary>
/// An address in this process. A number only: whoever dereferences it must own a mapping that covers it.
/// </summary>
public readonly record struct HostAddress(ulong Value)
{
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"0x{Value:x}");
}

/// <summary>
/// A range of IOVAs, both ends included, so that the top of the 64-bit space is expressible.
/// Invariant: <see cref="First"/> is not above <see cref="Last"/>.
/// </summary>
public readonly record struct IovaRange
{
    public IovaRange(Iova first, Iova last)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(first.Value, last.Value);
        First = first;
        Last = last;
    }

    public Iova First { get; }

    public Iova Last { get; }

    /// <summary>
    /// Length in bytes; the whole 64-bit space does not fit and throws <see cref="OverflowException"/>.
    /// </summary>
    public ulong ByteLength => checked(Last.Value - First.Value + 1);

    public static IovaRange FromLength(Iova first, ulong byteLength) =>
        new(first, new Iova(checked(first.Value + (byteLength - 1))));

    public bool Contains(IovaRange other) =>
        other.First.Value >= First.Value && other.Last.Value <= Last.Value;

    public bool Overlaps(IovaRange other) =>
        other.First.Value <= Last.Value && other.Last.Value >= First.Value;

    public override string ToString() => $"{First}-{Last}";
}

/// <summary>
/// The unit in which guest memory is tracked and sent: 4 KiB, the smallest page of every host we support.
/// </summary>
public static class GuestPage
{
    public const int Shift = 12;
    public const int Size = 1 << Shift;
}
