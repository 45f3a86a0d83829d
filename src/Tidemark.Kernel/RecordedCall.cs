using System.Globalization;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel.Recording;

namespace Tidemark.Kernel;

/// <summary>One system call as it was made and answered.</summary>
/// <remarks>
/// As text, one line, parts separated by one space, those in brackets only where they say something:
/// <code>
///   NAME NUMBER... [text=PERCENT-ENCODED] [in=HEX] [out=HEX] = VALUE [ERRNO-NUMBER]
///   open 524290 text=/dev/iommu = 5
///   ioctl 5 15233 in=0c(11) out=0c(7)01(3) = 0
///   ioctl 5 15296 in=00 out=in = -1 25
/// </code>
/// Numbers are decimal, signed 64-bit. In HEX a run of bytes is written as <c>(N)</c>, N zeros, or <c>(N:BB)</c>;
/// <c>out=in</c> says that the bytes came back as they went. The form is stable: recordings outlive releases.
/// </remarks>
/// <param name="Name">The member's name in lower case, <c>ioctl_value</c> for an ioctl with a number.</param>
/// <param name="Numbers">The numeric arguments, in the order of the member's parameters.</param>
/// <param name="Text">The path or name, or null.</param>
/// <param name="In">The bytes given to the kernel, or null when the call gives none.</param>
/// <param name="Out">The bytes that came back, or null when the call brings none.</param>
public sealed record RecordedCall(
    string Name, IReadOnlyList<long> Numbers, string? Text, byte[]? In, byte[]? Out, SyscallResult Result)
{
    private const long HighestErrno = 4095;

    /// <summary>The line, without a line end.</summary>
    public string ToLine()
    {
        var line = new StringBuilder(Name);
        foreach (long number in Numbers)
            line.Append(CultureInfo.InvariantCulture, $" {number}");
        if (Text is not null)
            line.Append(" text=").Append(Uri.EscapeDataString(Text).Replace("%2F", "/", StringComparison.Ordinal));
        if (In is not null)
            line.Append(" in=").Append(RecordedBytes.ToText(In));
        if (Out is not null)
            line.Append(" out=").Append(In is not null && In.AsSpan().SequenceEqual(Out) ? "in" : RecordedBytes.ToText(Out));
        line.Append(CultureInfo.InvariantCulture, $" = {Result.Value}");
        if (!Result.Succeeded)
            line.Append(CultureInfo.InvariantCulture, $" {(int)Result.Errno}");
        return line.ToString();
    }

    /// <exception cref="FormatException">The line is not one that <see cref="ToLine"/> makes.</exception>
    public static RecordedCall Parse(string line)
    {
        ArgumentNullException.ThrowIfNull(line);
        string[] parts = line.Split(' ');
        int equals = Array.IndexOf(parts, "=");
        if (parts[0].Length == 0 || equals < 1 || parts.Length - equals is not (2 or 3))
            throw NotACall(line);
        var numbers = new List<long>();
        string? text = null;
        byte[]? given = null;
        byte[]? returned = null;
        foreach (string part in parts.AsSpan(1, equals - 1))
        {
            if (part.StartsWith("text=", StringComparison.Ordinal))
                text = Uri.UnescapeDataString(part["text=".Length..]);
            else if (part.StartsWith("in=", StringComparison.Ordinal))
                given = Bytes(part["in=".Length..], line);
            else if (part == "out=in")
                returned = given?.ToArray() ?? throw NotACall(line);
            else if (part.StartsWith("out=", StringComparison.Ordinal))
                returned = Bytes(part["out=".Length..], line);
            else
                numbers.Add(Number(part, line));
        }

        long value = Number(parts[equals + 1], line);
        long errno = parts.Length - equals == 3 ? Number(parts[equals + 2], line) : 0;
        if (errno is < 0 or > HighestErrno)
            throw NotACall(line);
        return new RecordedCall(parts[0], numbers, text, given, returned, new SyscallResult(value, (Errno)errno));
    }

    private static long Number(string text, string line) =>
        long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number)
            ? number
            : throw NotACall(line);

    private static byte[] Bytes(string hex, string line)
    {
        try
        {
            return RecordedBytes.Parse(hex);
        }
        catch (FormatException)
        {
            // Nothing was made yet.
            throw NotACall(line);
        }
    }

    private static FormatException NotACall(string line) =>
        new($"A recorded call is malformed: {(line.Length > 80 ? line[..80] + "..." : line)}");
}
