using System.Diagnostics.CodeAnalysis;
using Tidemark.Kernel;

namespace Tidemark.Tests;

/// <summary>A few files and links.</summary>
internal sealed class FakeSysfs : ISysfs
{
    /// <summary>Folders and files; a value of null is a folder.</summary>
    public SortedDictionary<string, string?> Entries { get; } = new(StringComparer.Ordinal);

    public Dictionary<string, string> Links { get; } = [];

    public IReadOnlyList<string> List(string path) =>
    [
        .. Entries.Keys.Where(key => key.StartsWith(path + "/", StringComparison.Ordinal))
            .Select(key => key[(path.Length + 1)..].Split('/')[0]).Distinct(),
    ];

    public bool TryReadText(string path, [NotNullWhen(true)] out string? text) =>
        Entries.TryGetValue(path, out text) && text is not null;

    public bool TryReadLink(string path, [NotNullWhen(true)] out string? target) =>
        Links.TryGetValue(path, out target);

    public bool Exists(string path) =>
        Entries.Keys.Any(key => key == path || key.StartsWith(path + "/", StringComparison.Ordinal));
}
