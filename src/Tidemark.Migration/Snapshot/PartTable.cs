using System.Buffers.Binary;
using System.Text;

namespace Tidemark.Migration.Snapshot;

/// <summary>One part of the saved machine: what it is called and how much it said.</summary>
public sealed record SavedPart(string Name, ulong StateBytes);

/// <summary>
/// The parts of a machine in a file: for each 8 bytes count of state bytes, 2 bytes length of the name, the name in
/// UTF-8.
/// </summary>
internal static class PartTable
{
    /// <summary>LIMIT: a name that a person reads.</summary>
    public const int MaximumNameBytes = 256;

    private const int HeadBytes = 10;

    public static int Measure(IEnumerable<string> names) =>
        names.Sum(name => HeadBytes + Encoding.UTF8.GetByteCount(name));

    public static void Write(Span<byte> into, IEnumerable<SavedPart> parts)
    {
        foreach (SavedPart part in parts)
        {
            int length = Encoding.UTF8.GetBytes(part.Name, into[HeadBytes..]);
            BinaryPrimitives.WriteUInt64LittleEndian(into, part.StateBytes);
            BinaryPrimitives.WriteUInt16LittleEndian(into[8..], (ushort)length);
            into = into[(HeadBytes + length)..];
        }
    }

    /// <summary>Null when the bytes are no table of so many parts.</summary>
    public static IReadOnlyList<SavedPart>? Read(ReadOnlySpan<byte> bytes, int count)
    {
        var parts = new List<SavedPart>();
        for (int index = 0; index < count; index++)
        {
            if (bytes.Length < HeadBytes)
                return null;
            ulong stateBytes = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
            int length = BinaryPrimitives.ReadUInt16LittleEndian(bytes[8..]);
            if (length > MaximumNameBytes || length > bytes.Length - HeadBytes)
                return null;
            parts.Add(new SavedPart(Encoding.UTF8.GetString(bytes.Slice(HeadBytes, length)), stateBytes));
            bytes = bytes[(HeadBytes + length)..];
        }

        return bytes.IsEmpty ? parts : null;
    }
}
