using System.Globalization;

namespace Tidemark.Abi.Tests;

/// <summary>What abi/probe.c printed: the compiler's answer about the kernel's headers.</summary>
/// <remarks>A malformed line is a <see cref="FormatException"/>: nothing is skipped in silence.</remarks>
internal sealed class LayoutTable
{
    private readonly Dictionary<string, int> _structs = [];
    private readonly Dictionary<string, Dictionary<string, FieldPlace>> _fields = [];
    private readonly Dictionary<string, ulong> _constants = [];

    public IReadOnlyDictionary<string, int> Structs => _structs;

    public IReadOnlyDictionary<string, ulong> Constants => _constants;

    /// <summary>The fields of a struct by their C names.</summary>
    public IReadOnlyDictionary<string, FieldPlace> FieldsOf(string structName) => _fields[structName];

    public static LayoutTable Load() =>
        Parse(File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "linux-7.3.txt")));

    public static LayoutTable Parse(IEnumerable<string> lines)
    {
        var table = new LayoutTable();
        foreach (string line in lines)
        {
            if (line.StartsWith('#'))
                continue;
            table.Add(line.Split(' '), line);
        }

        return table;
    }

    private void Add(string[] words, string line)
    {
        switch (words)
        {
            case ["struct", var name, "size", var size]:
                _structs.Add(name, Number(size));
                _fields.Add(name, []);
                break;
            case ["field", var path, var offset, var size] when path.Split('.') is [var owner, var field]:
                _fields[owner].Add(field, new FieldPlace(Number(offset), Number(size)));
                break;
            case ["const", var name, ['0', 'x', .. var digits]]:
                _constants.Add(name, ulong.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture));
                break;
            default:
                throw new FormatException($"not a line of a layout table: {line}");
        }
    }

    private static int Number(string text) => int.Parse(text, NumberStyles.None, CultureInfo.InvariantCulture);
}
