using System.Diagnostics.CodeAnalysis;
using System.Text;

namespace Tidemark.Kernel.Linux;

/// <summary>The real <c>/sys</c>, <c>/proc</c> and <c>/dev</c>, read only.</summary>
public sealed class LinuxSysfs : ISysfs
{
    /// <summary>LIMIT: an attribute of sysfs fits one page; 64 KiB leaves room for files of <c>/proc</c>.</summary>
    private const int MaximumTextLength = 64 * 1024;

    public IReadOnlyList<string> List(string path)
    {
        try
        {
            var names = new List<string>();
            foreach (string entry in Directory.EnumerateFileSystemEntries(path))
                names.Add(Path.GetFileName(entry));
            names.Sort(StringComparer.Ordinal);
            return names;
        }
        catch (Exception failure) when (IsUnreadable(failure))
        {
            // Nothing was changed: what can not be read is, by contract, empty.
            return [];
        }
    }

    public bool TryReadText(string path, [NotNullWhen(true)] out string? text)
    {
        text = null;
        try
        {
            using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
            byte[] buffer = new byte[MaximumTextLength];
            int length = 0;
            while (length < buffer.Length)
            {
                int count = file.Read(buffer, length, buffer.Length - length);
                if (count == 0)
                    break;
                length += count;
            }

            text = Encoding.UTF8.GetString(buffer, 0, length).TrimEnd('\n');
            return true;
        }
        catch (Exception failure) when (IsUnreadable(failure))
        {
            // Nothing was changed. Some attributes exist and refuse to be read (EINVAL, EIO): also "can not be read".
            return false;
        }
    }

    public bool TryReadLink(string path, [NotNullWhen(true)] out string? target)
    {
        target = null;
        try
        {
            target = new FileInfo(path).LinkTarget;
            return target is not null;
        }
        catch (Exception failure) when (IsUnreadable(failure))
        {
            // Nothing was changed.
            return false;
        }
    }

    /// <inheritdoc/>
    public bool Exists(string path) => Path.Exists(path);

    private static bool IsUnreadable(Exception failure) =>
        failure is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException;
}
