using System.Globalization;
using System.Text.Json;

namespace Tidemark.Machine.Description;

/// <summary>
/// One JSON object of a machine file while it is read: typed getters that note every mistake and go on, so that a user
/// sees all of them at once.
/// </summary>
internal sealed class MachineFileObject
{
    private readonly LinedJson _json;
    private readonly string _what;
    private readonly List<MachineFileProblem> _problems;
    private readonly HashSet<string> _known = new(StringComparer.Ordinal);

    public MachineFileObject(LinedJson json, string what, List<MachineFileProblem> problems)
    {
        _json = json;
        _what = what;
        _problems = problems;
        if (json.Kind != JsonTokenType.StartObject)
            Note(json.Line, $"{Capital(what)} must be an object in braces.");
        foreach (var twice in json.Members.GroupBy(member => member.Name).Where(group => group.Count() > 1))
            Note(twice.Last().Line, $"\"{twice.Key}\" stands twice in {what}.");
    }

    public MachineFileObject? Object(string key, bool required = false)
    {
        LinedJson? value = Find(key, required);
        return value is null ? null : new MachineFileObject(value, $"\"{key}\"", _problems);
    }

    public IEnumerable<MachineFileObject> Objects(string key, int maximum)
    {
        LinedJson? value = Find(key, required: false);
        if (value is null)
            return [];
        if (value.Kind != JsonTokenType.StartArray)
        {
            Note(value.Line, $"\"{key}\" must be a list in brackets.");
            return [];
        }

        if (value.Items.Count > maximum)
        {
            Note(value.Line, $"\"{key}\" has {value.Items.Count} entries; at most {maximum} are supported.");
            return [];
        }

        return value.Items.Select((item, index) =>
            new MachineFileObject(item, $"entry {index + 1} of \"{key}\"", _problems)).ToList();
    }

    /// <summary>A name: letters, digits, '-', '_' and '.', at most 64.</summary>
    public string? Name(string key, bool required)
    {
        if (Text(key, required) is not { } text)
            return null;
        if (MachineName.IsValid(text))
            return text;
        Note(LineOf(key), $"\"{key}\" is \"{Shorten(text)}\"; a name has 1 to 64 letters, digits, '-', '_' or '.', and begins with a letter or digit.");
        return null;
    }

    /// <summary>A PCI address, or the UUID of a mediated device.</summary>
    public string? DeviceAddress(string key) =>
        Text(key, required: true) is not { } text ? null
        : Guid.TryParseExact(text, "D", out _) ? text
        : CheckPciAddress(key, text);

    public string? PciAddress(string key) =>
        Text(key, required: true) is { } text ? CheckPciAddress(key, text) : null;

    private string? CheckPciAddress(string key, string text)
    {
        bool good = text.Length == 12 && text[4] == ':' && text[7] == ':' && text[10] == '.'
            && text.Where((_, index) => index is not (4 or 7 or 10)).All(char.IsAsciiHexDigitLower) && text[11] <= '7';
        if (good)
            return text;
        Note(LineOf(key), $"\"{key}\" is \"{Shorten(text)}\"; a PCI address looks like 0000:01:00.0, in lower case.");
        return null;
    }

    public string? FilePath(string key, string baseFolder, bool required)
    {
        if (Text(key, required) is not { } text)
            return null;
        if (text.Length > 0 && !text.Contains('\0', StringComparison.Ordinal))
            return Path.GetFullPath(text, baseFolder);
        Note(LineOf(key), $"\"{key}\" must be the path of a file.");
        return null;
    }

    public bool Flag(string key, bool fallback)
    {
        LinedJson? value = Find(key, required: false);
        switch (value?.Kind)
        {
            case null:
                return fallback;
            case JsonTokenType.True:
                return true;
            case JsonTokenType.False:
                return false;
            default:
                Note(value.Line, $"\"{key}\" must be true or false.");
                return fallback;
        }
    }

    public ulong Number(string key, ulong minimum, ulong maximum, ulong fallback)
    {
        LinedJson? value = Find(key, required: false);
        if (value is null)
            return fallback;
        if (value.Kind == JsonTokenType.Number
            && ulong.TryParse(value.Text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number)
            && number >= minimum && number <= maximum)
            return number;
        Note(value.Line, $"\"{key}\" must be a whole number from {minimum} to {maximum}.");
        return fallback;
    }

    /// <summary>A size: <c>"64MiB"</c> or a number of bytes. Without a fallback it is required.</summary>
    public ulong Size(string key, ulong minimum, ulong maximum, ulong multipleOf = 1, ulong? fallback = null)
    {
        LinedJson? value = Find(key, required: fallback is null);
        if (value is null)
            return fallback ?? 0;
        string rule = $"must be a size from {ByteSize.Format(minimum)} to {ByteSize.Format(maximum)}"
            + (multipleOf > 1 ? $" and a multiple of {ByteSize.Format(multipleOf)}" : "");
        if (value.Kind is not (JsonTokenType.Number or JsonTokenType.String) || !ByteSize.TryParse(value.Text, out ulong bytes))
        {
            Note(value.Line, $"\"{key}\" {rule}, for instance \"64MiB\" or a number of bytes.");
            return fallback ?? 0;
        }

        if (bytes >= minimum && bytes <= maximum && bytes % multipleOf == 0)
            return bytes;
        Note(value.Line, $"\"{key}\" {rule}; it is {value.Text}.");
        return fallback ?? 0;
    }

    /// <summary>A word of an enumeration; words are the kebab-case names.</summary>
    public T Choice<T>(string key, T fallback)
        where T : struct, Enum
    {
        if (Text(key, required: false) is not { } text)
            return fallback;
        foreach (T value in Enum.GetValues<T>())
        {
            if (MachineName.ToWord(value.ToString()) == text)
                return value;
        }

        string words = string.Join(", ", Enum.GetValues<T>().Select(value => $"\"{MachineName.ToWord(value.ToString())}\""));
        Note(LineOf(key), $"\"{key}\" is \"{Shorten(text)}\"; it must be one of {words}.");
        return fallback;
    }

    /// <summary>Notes every member that no getter asked for: a misspelt key must not be silently ignored.</summary>
    public void RejectOthers()
    {
        foreach ((string name, int line, _) in _json.Members)
        {
            if (!_known.Contains(name))
                Note(line, $"\"{Shorten(name)}\" is not known in {_what}; known are {string.Join(", ", _known.Order(StringComparer.Ordinal))}.");
        }
    }

    private string? Text(string key, bool required)
    {
        LinedJson? value = Find(key, required);
        if (value is null)
            return null;
        if (value.Kind == JsonTokenType.String)
            return value.Text;
        Note(value.Line, $"\"{key}\" must be a text in quotes.");
        return null;
    }

    private LinedJson? Find(string key, bool required)
    {
        _known.Add(key);
        foreach ((string name, _, LinedJson value) in _json.Members)
        {
            if (name == key)
                return value;
        }

        if (required && _json.Kind == JsonTokenType.StartObject)
            Note(_json.Line, $"{Capital(_what)} lacks \"{key}\".");
        return null;
    }

    private int LineOf(string key) => _json.Members.First(member => member.Name == key).Value.Line;

    private void Note(int line, string text) => _problems.Add(new MachineFileProblem(line, text));

    private static string Capital(string text) => char.ToUpperInvariant(text[0]) + text[1..];

    private static string Shorten(string text) => text.Length <= 60 ? text : text[..57] + "...";
}
