using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>Numbers, flags and bytes as strace spells them.</summary>
internal static class TraceValues
{
    /// <summary>LIMIT: bytes shown of a buffer, as many as strace shows.</summary>
    private const int ShownBytes = 32;

    internal static string Hex(ulong value) => string.Create(CultureInfo.InvariantCulture, $"0x{value:x}");

    /// <summary>Little-endian number of 1 to 8 bytes.</summary>
    internal static ulong Number(ReadOnlySpan<byte> bytes)
    {
        Span<byte> whole = stackalloc byte[sizeof(ulong)];
        whole.Clear();
        bytes.CopyTo(whole);
        return BinaryPrimitives.ReadUInt64LittleEndian(whole);
    }

    /// <summary>Names of the bits that are set, the rest in hexadecimal; <c>0</c> when none is.</summary>
    internal static Func<ulong, string> Flags<TEnum>()
        where TEnum : struct, Enum
    {
        (ulong Value, string Name)[] names = Names<TEnum>(static value => ulong.IsPow2(value));
        return value => Join(value, names);
    }

    /// <summary>The name of the one value, or the number.</summary>
    internal static Func<ulong, string> Enumeration<TEnum>()
        where TEnum : struct, Enum
    {
        (ulong Value, string Name)[] names = Names<TEnum>(static _ => true);
        return value =>
        {
            foreach ((ulong known, string name) in names)
            {
                if (known == value)
                    return name;
            }

            return value.ToString(CultureInfo.InvariantCulture);
        };
    }

    /// <summary>Bytes in quotes, printable ones as they are, the rest as \xNN, cut after 32.</summary>
    internal static string Bytes(ReadOnlySpan<byte> bytes)
    {
        var text = new StringBuilder("\"");
        foreach (byte value in bytes[..Math.Min(bytes.Length, ShownBytes)])
        {
            if (value is >= 0x20 and < 0x7f and not (byte)'"' and not (byte)'\\')
                text.Append((char)value);
            else
                text.Append(CultureInfo.InvariantCulture, $"\\x{value:x2}");
        }

        return text.Append(bytes.Length > ShownBytes ? "\"..." : "\"").ToString();
    }

    internal static string Quote(string? text) => text is null ? "NULL" : $"\"{text}\"";

    internal static string Error(Errno errno) => errno switch
    {
        // Two names for one number; the header's first one is what strace prints.
        Errno.EAGAIN => nameof(Errno.EAGAIN),
        Errno.EDEADLK => nameof(Errno.EDEADLK),
        Errno.EBADMSG => nameof(Errno.EBADMSG),
        Errno.EUCLEAN => nameof(Errno.EUCLEAN),
        _ => errno.ToString(),
    };

    private static string Join(ulong value, (ulong Value, string Name)[] names)
    {
        if (value == 0)
            return "0";
        var text = new StringBuilder();
        foreach ((ulong bit, string name) in names)
        {
            if ((value & bit) == 0)
                continue;
            text.Append(text.Length == 0 ? "" : "|").Append(name);
            value &= ~bit;
        }

        if (value != 0)
            text.Append(text.Length == 0 ? "" : "|").Append(Hex(value));
        return text.ToString();
    }

    private static (ulong Value, string Name)[] Names<TEnum>(Func<ulong, bool> wanted)
        where TEnum : struct, Enum
    {
        TEnum[] values = Enum.GetValues<TEnum>();
        string[] names = Enum.GetNames<TEnum>();
        var kept = new List<(ulong, string)>();
        for (int index = 0; index < values.Length; index++)
        {
            ulong value = Convert.ToUInt64(values[index], CultureInfo.InvariantCulture);
            if (wanted(value))
                kept.Add((value, ToHeaderName(names[index])));
        }

        return [.. kept];
    }

    /// <summary>The rule of <see cref="UapiAttribute"/>: words split at capitals, joined by underscores.</summary>
    private static string ToHeaderName(string name)
    {
        var text = new StringBuilder();
        for (int index = 0; index < name.Length; index++)
        {
            if (index > 0 && char.IsAsciiLetterUpper(name[index]) && char.IsAsciiLetterLower(name[index - 1]))
                text.Append('_');
            text.Append(char.ToUpperInvariant(name[index]));
        }

        return text.ToString();
    }
}
