using System.Text;
using System.Text.Json;

namespace Tidemark.Machine.Description;

/// <summary>
/// JSON that remembers on which line each value stands, so that every mistake in a file can be shown where it is.
/// Comments and trailing commas are allowed, as people write them in files they edit by hand.
/// </summary>
internal sealed record LinedJson(JsonTokenType Kind, int Line, string? Text)
{
    /// <summary>LIMIT: a machine file is small; deeper nesting is a mistake or an attack.</summary>
    private const int MaximumDepth = 16;

    public IReadOnlyList<(string Name, int Line, LinedJson Value)> Members { get; private init; } = [];

    public IReadOnlyList<LinedJson> Items { get; private init; } = [];

    /// <exception cref="JsonException">Not JSON; LineNumber is zero-based, as System.Text.Json counts.</exception>
    public static LinedJson Parse(byte[] utf8)
    {
        int[] lineStarts = FindLineStarts(utf8);
        var reader = new Utf8JsonReader(utf8, new JsonReaderOptions
        {
            AllowTrailingCommas = true,
            CommentHandling = JsonCommentHandling.Skip,
            MaxDepth = MaximumDepth,
        });
        reader.Read();
        LinedJson root = ReadValue(ref reader, lineStarts);
        if (reader.Read())
            throw new JsonException("Something follows the end of the document.", null, LineOf(lineStarts, reader.TokenStartIndex) - 1, 0);
        return root;
    }

    private static LinedJson ReadValue(ref Utf8JsonReader reader, int[] lineStarts)
    {
        int line = LineOf(lineStarts, reader.TokenStartIndex);
        switch (reader.TokenType)
        {
            case JsonTokenType.StartObject:
                var members = new List<(string, int, LinedJson)>();
                while (reader.Read() && reader.TokenType != JsonTokenType.EndObject)
                {
                    int nameLine = LineOf(lineStarts, reader.TokenStartIndex);
                    string name = reader.GetString()!;
                    reader.Read();
                    members.Add((name, nameLine, ReadValue(ref reader, lineStarts)));
                }

                return new LinedJson(JsonTokenType.StartObject, line, null) { Members = members };
            case JsonTokenType.StartArray:
                var items = new List<LinedJson>();
                while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
                    items.Add(ReadValue(ref reader, lineStarts));
                return new LinedJson(JsonTokenType.StartArray, line, null) { Items = items };
            case JsonTokenType.String:
                return new LinedJson(JsonTokenType.String, line, reader.GetString());
            case JsonTokenType.Number:
                return new LinedJson(JsonTokenType.Number, line, Encoding.UTF8.GetString(reader.ValueSpan));
            default:
                return new LinedJson(reader.TokenType, line, null);
        }
    }

    private static int[] FindLineStarts(byte[] utf8)
    {
        var starts = new List<int> { 0 };
        for (int index = 0; index < utf8.Length; index++)
        {
            if (utf8[index] == (byte)'\n')
                starts.Add(index + 1);
        }

        return [.. starts];
    }

    private static int LineOf(int[] lineStarts, long offset)
    {
        int found = Array.BinarySearch(lineStarts, (int)offset);
        return found >= 0 ? found + 1 : ~found;
    }
}
