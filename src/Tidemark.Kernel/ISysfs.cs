using System.Diagnostics.CodeAnalysis;

namespace Tidemark.Kernel;

/// <summary>
/// Read-only discovery: the files under <c>/sys</c> (and <c>/proc</c>, <c>/dev</c>) that say which devices exist and
/// how they are bound. Paths are absolute, as on a real host.
/// </summary>
public interface ISysfs
{
    /// <summary>Names in a folder, sorted ordinally; empty when it does not exist or can not be read.</summary>
    IReadOnlyList<string> List(string path);

    /// <summary>
    /// A small file's text without its trailing newline; false when it does not exist or can not be read.
    /// </summary>
    bool TryReadText(string path, [NotNullWhen(true)] out string? text);

    /// <summary>A symbolic link's target, not resolved further; false when it is none.</summary>
    bool TryReadLink(string path, [NotNullWhen(true)] out string? target);

    /// <summary>Whether a file, folder or device node exists.</summary>
    bool Exists(string path);
}
