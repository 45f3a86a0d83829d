using System.Globalization;

namespace Tidemark.Migration.Stream;

/// <summary>
/// The bytes that arrived are not what this protocol allows: damaged, cut, oversized, or from somebody else.
/// </summary>
/// <remarks>Nothing that the bad bytes asked for was done. The connection can not be used further.</remarks>
public sealed class MigrationStreamException : Exception
{
    /// <param name="section">What was being read: a frame type, or <c>preamble</c>.</param>
    /// <param name="offset">Bytes of the connection consumed before the section began.</param>
    /// <param name="problem">One clause without a full stop.</param>
    public MigrationStreamException(string section, ulong offset, string problem)
        : base(string.Create(CultureInfo.InvariantCulture,
            $"The migration stream is damaged in {section} at byte 0x{offset:x}: {problem}."))
    {
        Section = section;
        Offset = offset;
    }

    public string Section { get; }

    public ulong Offset { get; }
}
