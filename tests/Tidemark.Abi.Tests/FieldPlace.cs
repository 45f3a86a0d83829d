namespace Tidemark.Abi.Tests;

/// <summary>Where a field lies in its struct, in bytes. Size 0: a variable-length array starts there.</summary>
internal readonly record struct FieldPlace(int Offset, int Size)
{
    public override string ToString() => $"offset {Offset}, size {Size}";
}
