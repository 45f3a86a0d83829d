using System.Globalization;

namespace Tidemark.Machine.Description;

/// <summary>Sizes as people write them: <c>1GiB</c>, <c>64MiB</c>, <c>4096</c> (bytes). Powers of 1024 only.</summary>
public static class ByteSize
{
    private static readonly (string Suffix, ulong Unit)[] Units =
        [("KiB", 1UL << 10), ("MiB", 1UL << 20), ("GiB", 1UL << 30), ("TiB", 1UL << 40), ("B", 1)];

    /// <summary>False when the text is not a whole number of a known unit, or does not fit 64 bits.</summary>
    public static bool TryParse(string? text, out ulong bytes)
    {
        bytes = 0;
        if (string.IsNullOrWhiteSpace(text))
            return false;
        string digits = text.Trim();
        ulong unit = 1;
        foreach ((string suffix, ulong value) in Units)
        {
            if (!digits.EndsWith(suffix, StringComparison.OrdinalIgnoreCase))
                continue;
            digits = digits[..^suffix.Length].TrimEnd();
            unit = value;
            break;
        }

        if (!ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out ulong count))
            return false;
        if (count > ulong.MaxValue / unit)
            return false;
        bytes = count * unit;
        return true;
    }

    /// <summary>The shortest exact or three-digit form: <c>1 GiB</c>, <c>96.5 MiB</c>.</summary>
    public static string Format(double bytes)
    {
        string[] names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        int index = 0;
        while (bytes >= 1024 && index < names.Length - 1)
        {
            bytes /= 1024;
            index++;
        }

        string format = index == 0 || bytes >= 100 || Math.Abs(bytes - Math.Round(bytes)) < 0.005 ? "0" : bytes >= 10 ? "0.0" : "0.00";
        return bytes.ToString(format, CultureInfo.InvariantCulture) + " " + names[index];
    }
}
