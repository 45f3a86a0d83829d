using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>
/// What the first bytes of a connection say about who comes, for those who keep the door in front of the engine. The
/// bytes are those of the preamble, whose form is the same in every version.
/// </summary>
/// <param name="Token">The same on all connections of one migration, and known to its two sides only.</param>
/// <param name="Kind">What the connection is for.</param>
public readonly record struct Introduction(Guid Token, IntroductionKind Kind)
{
    /// <summary>How many bytes each side sends before anything else.</summary>
    public const int Size = Preamble.Size;

    private static ReadOnlySpan<byte> Magic => "TIDEMARK"u8;

    /// <summary>Whether bytes that begin so can become an introduction.</summary>
    public static bool MayBegin(ReadOnlySpan<byte> bytes)
    {
        int length = Math.Min(bytes.Length, Magic.Length);
        return bytes[..length].SequenceEqual(Magic[..length]);
    }

    /// <summary>Null when the bytes are damaged.</summary>
    public static Introduction? Read(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length != Size || !MayBegin(bytes)
            || BinaryPrimitives.ReadUInt32LittleEndian(bytes[44..]) != Checksum.Crc32C(bytes[..44]))
            return null;
        var role = (PreambleRole)BinaryPrimitives.ReadUInt16LittleEndian(bytes[12..]);
        return new Introduction(new Guid(bytes[24..40]), role switch
        {
            PreambleRole.SourceControl => IntroductionKind.Control,
            PreambleRole.Query => IntroductionKind.Query,
            _ => IntroductionKind.Pages,
        });
    }
}

/// <summary>What a newcomer wants.</summary>
public enum IntroductionKind
{
    /// <summary>A migration begins with it, or goes on.</summary>
    Control,

    /// <summary>It belongs to a migration under way.</summary>
    Pages,

    /// <summary>A source asks what became of its machine.</summary>
    Query,
}
