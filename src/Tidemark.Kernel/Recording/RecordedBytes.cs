using System.Globalization;
using System.Text;

namespace Tidemark.Kernel.Recording;

/// <summary>
/// Bytes as text that stays short and readable: hexadecimal, a run of one byte as its length in parentheses.
/// </summary>
/// <remarks>
/// <code>
///   28(3)07(3)010000       28 00 00 00 07 00 00 00 01 00 00        (N): N bytes of zero
///   (16:ff)                sixteen times ff                        (N:BB): N bytes of BB
/// </code>
/// Plain hexadecimal is read as well.
/// </remarks>
internal static class RecordedBytes
{
    /// <summary>LIMIT: bytes of one value; a call's buffer and a watched region are both shorter.</summary>
    public const int Most = 16 << 20;

    private const int ShortestZeros = 3;
    private const int ShortestOther = 5;

    public static string ToText(ReadOnlySpan<byte> bytes)
    {
        var text = new StringBuilder();
        while (!bytes.IsEmpty)
        {
            byte value = bytes[0];
            int run = bytes.IndexOfAnyExcept(value);
            run = run < 0 ? bytes.Length : run;
            if (run < (value == 0 ? ShortestZeros : ShortestOther))
            {
                for (int index = 0; index < run; index++)
                    text.Append(CultureInfo.InvariantCulture, $"{value:x2}");
            }
            else if (value == 0)
            {
                text.Append(CultureInfo.InvariantCulture, $"({run})");
            }
            else
            {
                text.Append(CultureInfo.InvariantCulture, $"({run}:{value:x2})");
            }

            bytes = bytes[run..];
        }

        return text.ToString();
    }

    /// <exception cref="FormatException">The text is malformed, or stands for more than <see cref="Most"/> bytes.</exception>
    public static byte[] Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        using var bytes = new MemoryStream();
        ReadOnlySpan<char> rest = text;
        while (!rest.IsEmpty)
        {
            int open = rest.IndexOf('(');
            bytes.Write(Convert.FromHexString(open < 0 ? rest : rest[..open]));
            if (open < 0)
                break;
            rest = rest[(open + 1)..];
            int close = rest.IndexOf(')');
            if (close < 0)
                throw new FormatException("A run of bytes has no end.");
            WriteRun(bytes, rest[..close]);
            rest = rest[(close + 1)..];
        }

        return bytes.ToArray();
    }

    private static void WriteRun(MemoryStream bytes, ReadOnlySpan<char> run)
    {
        int colon = run.IndexOf(':');
        byte value = 0;
        ReadOnlySpan<char> digits = colon < 0 ? run : run[..colon];
        bool good = int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out int length)
            && (colon < 0 || byte.TryParse(
                run[(colon + 1)..], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value));
        if (!good || length > Most - bytes.Length)
            throw new FormatException($"A run of bytes is malformed or longer than {Most} bytes.");
        Span<byte> part = stackalloc byte[Math.Min(length, 4096)];
        part.Fill(value);
        for (int left = length; left > 0; left -= part.Length)
            bytes.Write(part[..Math.Min(left, part.Length)]);
    }
}
