using Microsoft.Win32.SafeHandles;

namespace Tidemark.Machine.Nvme;

/// <summary>What a disk should hold, known by another way than through the controller. Used by one thread.</summary>
public interface IExpectedContent
{
    /// <summary>The bytes at an offset of the disk; zeros beyond the content's end.</summary>
    void Read(ulong byteOffset, Span<byte> into);
}

/// <summary>The content of an ordinary file, read from the file itself.</summary>
public sealed class FileExpectedContent : IExpectedContent, IDisposable
{
    private readonly SafeFileHandle _file;

    /// <exception cref="IOException">The file can not be opened.</exception>
    public FileExpectedContent(string path) =>
        _file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);

    public void Read(ulong byteOffset, Span<byte> into)
    {
        while (!into.IsEmpty && byteOffset < long.MaxValue)
        {
            int count = RandomAccess.Read(_file, into, (long)byteOffset);
            if (count == 0)
                break;
            byteOffset += (ulong)count;
            into = into[count..];
        }

        into.Clear();
    }

    public void Dispose() => _file.Dispose();
}
