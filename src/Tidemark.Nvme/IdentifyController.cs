using System.Buffers.Binary;
using System.Text;

namespace Tidemark.Nvme;

/// <summary>
/// The fields of the Identify Controller structure (4096 bytes) that this library uses. NVM Express 1.4 section
/// 5.15.2.2,
/// figure 247.
/// </summary>
public sealed record IdentifyController
{
    public const int ByteLength = 4096;

    /// <summary>SN, at most 20 characters of ASCII.</summary>
    public required string SerialNumber { get; init; }

    /// <summary>MN, at most 40 characters of ASCII.</summary>
    public required string ModelNumber { get; init; }

    /// <summary>FR, at most 8 characters of ASCII.</summary>
    public required string FirmwareRevision { get; init; }

    /// <summary>VID and SSVID.</summary>
    public ushort VendorId { get; init; }

    /// <summary>MDTS: log2 of the longest transfer in memory pages of the smallest size; 0 means no limit.</summary>
    public byte MaximumTransferShift { get; init; }

    /// <summary>VER.</summary>
    public uint Version { get; init; } = NvmeRegister.Version14;

    /// <summary>AERL as a count: asynchronous event requests that may be pending.</summary>
    public int AsynchronousEventLimit { get; init; } = 1;

    /// <summary>NN.</summary>
    public uint NamespaceCount { get; init; }

    /// <summary>VWC bit 0.</summary>
    public bool HasVolatileWriteCache { get; init; }

    /// <param name="into">At least 4096 bytes; all of them are written.</param>
    public void Format(Span<byte> into)
    {
        into = into[..ByteLength];
        into.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(into, VendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(into[2..], VendorId);
        FormatText(into.Slice(4, 20), SerialNumber);
        FormatText(into.Slice(24, 40), ModelNumber);
        FormatText(into.Slice(64, 8), FirmwareRevision);
        into[77] = MaximumTransferShift;
        BinaryPrimitives.WriteUInt32LittleEndian(into[80..], Version);
        into[111] = 1; // CNTRLTYPE: an I/O controller.
        into[258] = 3; // ACL: four aborts at a time.
        into[259] = (byte)(AsynchronousEventLimit - 1);
        into[260] = 0x03; // FRMW: one slot, read only.
        into[262] = 0; // ELPE: one error log entry.
        BinaryPrimitives.WriteUInt16LittleEndian(into[266..], 343); // WCTEMP in kelvin.
        BinaryPrimitives.WriteUInt16LittleEndian(into[268..], 373); // CCTEMP in kelvin.
        into[512] = 0x66; // SQES: 64 bytes.
        into[513] = 0x44; // CQES: 16 bytes.
        BinaryPrimitives.WriteUInt32LittleEndian(into[516..], NamespaceCount);
        into[525] = (byte)(HasVolatileWriteCache ? 1 : 0);
        string name = $"nqn.2025-01.example.tidemark:{SerialNumber}"; // SUBNQN, ends with a null.
        Encoding.ASCII.GetBytes(name.AsSpan(0, Math.Min(name.Length, 223)), into.Slice(768, 256));
    }

    /// <param name="from">At least 4096 bytes. A copy.</param>
    public static IdentifyController Parse(ReadOnlySpan<byte> from)
    {
        from = from[..ByteLength];
        return new IdentifyController
        {
            VendorId = BinaryPrimitives.ReadUInt16LittleEndian(from),
            SerialNumber = ParseText(from.Slice(4, 20)),
            ModelNumber = ParseText(from.Slice(24, 40)),
            FirmwareRevision = ParseText(from.Slice(64, 8)),
            MaximumTransferShift = from[77],
            Version = BinaryPrimitives.ReadUInt32LittleEndian(from[80..]),
            AsynchronousEventLimit = from[259] + 1,
            NamespaceCount = BinaryPrimitives.ReadUInt32LittleEndian(from[516..]),
            HasVolatileWriteCache = (from[525] & 1) != 0,
        };
    }

    private static void FormatText(Span<byte> into, string text)
    {
        // Section 1.5: ASCII strings are padded with spaces.
        into.Fill((byte)' ');
        for (int index = 0; index < Math.Min(text.Length, into.Length); index++)
            into[index] = text[index] is >= ' ' and <= '~' ? (byte)text[index] : (byte)'?';
    }

    private static string ParseText(ReadOnlySpan<byte> from) => Encoding.ASCII.GetString(from).TrimEnd(' ', '\0');
}
