using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Machine.Snapshot;

/// <summary>Whether pages go past the page cache.</summary>
public enum DirectIO
{
    /// <summary>Where the file system takes it.</summary>
    Auto,

    /// <summary>Always; a file system that refuses is a failure.</summary>
    On,

    Off,
}

/// <summary>
/// A snapshot file over the kernel's own calls: two descriptors, one of them for pages past the cache.
/// </summary>
/// <remarks>
/// Direct I/O is tried when the file is opened. A file system that refuses then (EINVAL), or later in a call, gets the
/// page cache instead, for good, and <see cref="Lane"/> says so; with <see cref="DirectIO.On"/> that is a failure.
/// </remarks>
public class SnapshotFile : ISnapshotFile
{
    /// <summary>LIMIT: what pread(2) and pwrite(2) are asked for at a time; Linux takes 2 GiB less a page.</summary>
    private const int MaximumRequest = 1 << 30;

    private const int GuestPageBytes = (int)GuestPage.Size;

    private readonly IKernel _kernel;
    private readonly KernelFd _buffered;
    private readonly KernelFd? _direct;
    private readonly bool _directOnly;
    private volatile PageLane _lane;

    private protected SnapshotFile(IKernel kernel, string path, string openedPath, OpenFlags access, DirectIO direct)
    {
        _kernel = kernel;
        Path = path;
        _directOnly = direct == DirectIO.On;
        _buffered = Open(kernel, path, openedPath, access);
        try
        {
            _lane = new PageLane(false, "Direct I/O was not asked for.");
            if (direct == DirectIO.Off)
                return;
            SyscallResult opened = kernel.Open(openedPath, access | OpenFlags.Direct);
            if (opened.Succeeded)
            {
                _direct = new KernelFd(kernel, (int)opened.Value);
                _lane = new PageLane(true, "The file system takes direct I/O.");
            }
            else
            {
                FallBack(opened.Errno);
            }
        }
        catch
        {
            // A file that can not be used as asked is closed again.
            _buffered.Dispose();
            throw;
        }
    }

    public string Path { get; }

    public PageLane Lane => _lane;

    protected int BufferedFd => _buffered.Number;

    /// <summary>Opens a file that exists, for reading.</summary>
    /// <exception cref="IOException">It can not be opened.</exception>
    public static SnapshotFile OpenRead(IKernel kernel, string path, DirectIO direct)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        // NonBlocking: a FIFO must not be waited for. It means nothing for an ordinary file.
        return new SnapshotFile(kernel, path, path, OpenFlags.ReadOnly | OpenFlags.NonBlocking, direct);
    }

    public ulong ReadLength()
    {
        SyscallResult end = _kernel.Lseek(BufferedFd, 0, SeekWhence.End);
        return end.Succeeded ? (ulong)end.Value : throw Failed("Finding the length", 0, 0, end.Errno);
    }

    public void Read(Span<byte> buffer, ulong offset) => Read(BufferedFd, buffer, offset);

    public void ReadPages(Span<byte> pages, ulong offset)
    {
        if (_direct is not null && _lane.Direct)
        {
            int done = ReadDirect(_direct.Number, pages, offset);
            pages = pages[done..];
            offset += (ulong)done;
        }

        if (!pages.IsEmpty)
            Read(BufferedFd, pages, offset);
    }

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        if (!disposing)
            return;
        _direct?.Dispose();
        _buffered.Dispose();
    }

    protected void WriteAll(ReadOnlySpan<byte> bytes, ulong offset)
    {
        while (!bytes.IsEmpty)
        {
            SyscallResult written = _kernel.Pwrite(BufferedFd, bytes[..Math.Min(bytes.Length, MaximumRequest)], offset);
            if (written.Errno == Errno.EINTR)
                continue;
            if (!written.Succeeded || written.Value == 0)
                throw Failed("Writing", offset, bytes.Length, written.Succeeded ? Errno.EIO : written.Errno);
            bytes = bytes[(int)written.Value..];
            offset += (ulong)written.Value;
        }
    }

    /// <summary>Writes past the cache as far as that goes; the rest is the caller's.</summary>
    protected int WriteDirect(ReadOnlySpan<byte> pages, ulong offset)
    {
        int done = 0;
        while (_direct is not null && _lane.Direct && done < pages.Length && done % GuestPageBytes == 0)
        {
            SyscallResult written = _kernel.Pwrite(_direct.Number, pages[done..], offset + (ulong)done);
            if (written.Errno == Errno.EINTR)
                continue;
            if (written.Errno == Errno.EINVAL)
                FallBack(written.Errno);
            else if (!written.Succeeded)
                throw Failed("Writing", offset + (ulong)done, pages.Length - done, written.Errno);
            else if (written.Value == 0)
                break;
            else
                done += (int)written.Value;
        }

        return done;
    }

    protected IOException Failed(string operation, ulong offset, int byteLength, Errno errno)
    {
        string range = byteLength == 0 ? "" : $" {byteLength} bytes at offset 0x{offset:x}";
        string remedy = errno switch
        {
            Errno.ENOSPC => " The disk is full: make room, or save to another one.",
            Errno.EDQUOT => " Your quota is used up: make room, or save elsewhere.",
            Errno.EFBIG => " The file system, or the limit of this process (ulimit -f), does not allow a file so long.",
            Errno.EIO => " The disk reported an error: look at the kernel's log (dmesg).",
            Errno.EROFS => " The file system is read-only.",
            _ => "",
        };
        return new IOException($"{operation}{range} of {Path} failed: {errno}.{remedy}");
    }

    private int ReadDirect(int fd, Span<byte> pages, ulong offset)
    {
        int done = 0;
        while (done < pages.Length && done % GuestPageBytes == 0)
        {
            SyscallResult read = _kernel.Pread(fd, pages[done..], offset + (ulong)done);
            if (read.Errno == Errno.EINTR)
                continue;
            if (read.Errno == Errno.EINVAL)
            {
                FallBack(read.Errno);
                break;
            }

            if (!read.Succeeded)
                throw Failed("Reading", offset + (ulong)done, pages.Length - done, read.Errno);
            if (read.Value == 0)
                break;
            done += (int)read.Value;
        }

        return done;
    }

    private void Read(int fd, Span<byte> buffer, ulong offset)
    {
        while (!buffer.IsEmpty)
        {
            SyscallResult read = _kernel.Pread(fd, buffer[..Math.Min(buffer.Length, MaximumRequest)], offset);
            if (read.Errno == Errno.EINTR)
                continue;
            if (!read.Succeeded)
                throw Failed("Reading", offset, buffer.Length, read.Errno);
            if (read.Value == 0)
                throw new IOException($"{Path} ends at offset 0x{offset:x}, {buffer.Length} bytes too early: it was cut while it was read.");
            buffer = buffer[(int)read.Value..];
            offset += (ulong)read.Value;
        }
    }

    private void FallBack(Errno errno)
    {
        if (_directOnly)
        {
            throw new IOException(
                $"{Path} can not be used with direct I/O: {errno}. The file system does not take it; leave --direct out, or use another one.");
        }

        _lane = new PageLane(false, $"The file system does not take direct I/O ({errno}).");
    }

    private static KernelFd Open(IKernel kernel, string path, string openedPath, OpenFlags access)
    {
        SyscallResult opened = kernel.Open(openedPath, access);
        if (opened.Succeeded)
            return new KernelFd(kernel, (int)opened.Value);
        string remedy = opened.Errno switch
        {
            Errno.ENOENT => " There is no such file.",
            Errno.EACCES => " Its owner does not allow it.",
            _ => "",
        };
        throw new IOException($"{path} can not be opened: {opened.Errno}.{remedy}");
    }
}
