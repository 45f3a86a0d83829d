using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>Who speaks on a connection.</summary>
internal enum PreambleRole : ushort
{
    SourceControl = 1,
    SourcePages = 2,
    Destination = 3,

    /// <summary>A source that wants to know what became of its machine.</summary>
    Query = 4,
}

/// <summary>
/// The first bytes of each side on each connection; the source speaks first. Little-endian:
/// <code>
///  0  8 bytes "TIDEMARK"     8  u16 oldest version spoken   10  u16 newest version spoken
/// 12  u16 role              14  u16 channel (0: control)    16  u64 feature bits (1: takes a lost connection up again)
/// 24  16 bytes session token: random, made by the source, the same on all connections of one migration
/// 40  u32 reserved (0)      44  u32 CRC-32C of bytes 0..43
/// </code>
/// Version and length of this block never change, so that every version can say to every other what it is.
/// </summary>
internal sealed record Preamble(
    ushort OldestVersion, ushort NewestVersion, PreambleRole Role, ushort Channel, ulong Features, Guid Token)
{
    public const int Size = 48;

    /// <summary>The version of the format that this code speaks.</summary>
    public const ushort Version = 1;

    private static ReadOnlySpan<byte> Magic => "TIDEMARK"u8;

    public static Preamble Create(PreambleRole role, int channel, Guid token, ulong features = 0) =>
        new(Version, Version, role, (ushort)channel, features, token);

    /// <summary>Feature bit of a source's control connection: the migration with this token goes on.</summary>
    public const ulong Resumes = 1;

    public bool SpeaksOurVersion => OldestVersion <= Version && NewestVersion >= Version;

    public string Versions => OldestVersion == NewestVersion
        ? string.Create(CultureInfo.InvariantCulture, $"{OldestVersion}")
        : string.Create(CultureInfo.InvariantCulture, $"{OldestVersion} to {NewestVersion}");

    /// <summary>
    /// A name of the migration for logs and traces, where the token has no place: who knows that can join.
    /// </summary>
    public static string? IdOf(Guid token) =>
        token == default ? null : Convert.ToHexStringLower(SHA256.HashData(token.ToByteArray()).AsSpan(0, 8));

    public void Send(IConnection connection)
    {
        Span<byte> bytes = stackalloc byte[Size];
        bytes.Clear();
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[8..], OldestVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[10..], NewestVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[12..], (ushort)Role);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[14..], Channel);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[16..], Features);
        Token.TryWriteBytes(bytes[24..40]);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[44..], Checksum.Crc32C(bytes[..44]));
        connection.Send(bytes);
    }

    /// <summary>Reads the peer's preamble within <paramref name="limit"/>, however slowly it drips.</summary>
    /// <exception cref="NotTidemarkException">The peer said something else, nothing, or too little.</exception>
    /// <exception cref="MigrationStreamException">It began as one of ours and is damaged.</exception>
    public static Preamble Receive(IConnection connection, TimeSpan limit, TimeProvider time)
    {
        Span<byte> bytes = stackalloc byte[Size];
        long start = time.GetTimestamp();
        int have = 0;
        try
        {
            while (have < Size)
            {
                TimeSpan left = limit - time.GetElapsedTime(start);
                if (left <= TimeSpan.Zero)
                    throw new NotTidemarkException($"The peer {connection.Peer} did not introduce itself within "
                        + $"{Words.Of(limit)}.");
                connection.IdleTimeout = left;
                int count = connection.Receive(bytes[have..]);
                if (count == 0)
                    throw new NotTidemarkException($"The peer {connection.Peer} closed the connection before it "
                        + $"introduced itself.");
                have += count;
                int magic = Math.Min(have, Magic.Length);
                if (!bytes[..magic].SequenceEqual(Magic[..magic]))
                {
                    throw new NotTidemarkException(
                        $"The peer {connection.Peer} is not Tidemark: it began with "
                            + $"{Convert.ToHexString(bytes[..magic])}.");
                }
            }
        }
        catch (IOException failure)
        {
            // Nothing was understood yet, so nothing has to be undone.
            throw new NotTidemarkException(
                $"The peer {connection.Peer} did not introduce itself: {failure.Message}", failure);
        }

        return Parse(bytes);
    }

    private static Preamble Parse(ReadOnlySpan<byte> bytes)
    {
        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes[44..]) != Checksum.Crc32C(bytes[..44]))
            throw new MigrationStreamException("preamble", 0, "its checksum does not fit");
        return new Preamble(
            BinaryPrimitives.ReadUInt16LittleEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt16LittleEndian(bytes[10..]),
            (PreambleRole)BinaryPrimitives.ReadUInt16LittleEndian(bytes[12..]),
            BinaryPrimitives.ReadUInt16LittleEndian(bytes[14..]),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes[16..]),
            new Guid(bytes[24..40]));
    }
}

/// <summary>Whoever is at the other end does not speak this protocol, or does not speak at all.</summary>
internal sealed class NotTidemarkException(string message, Exception? inner = null) : Exception(message, inner);
