using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// The blocks of a namespace in an ordinary file, and where written blocks go. Single-threaded; all calls answer with
/// an
/// errno and never throw.
/// </summary>
internal sealed class NvmeDisk : IDisposable
{
    private readonly IKernel _host;
    private readonly SoftDisk _description;
    private readonly KernelFd _file;
    private readonly NvmeOverlay? _overlay;
    private bool _unflushed;

    /// <exception cref="KernelException">A file can not be opened, or the overlay file is not one.</exception>
    public NvmeDisk(IKernel host, SoftDisk description)
    {
        if (description.ByteLength == 0 || description.ByteLength > long.MaxValue / 2)
            throw new KernelException(
                $"Opening disk {description.Path} with {description.ByteLength} bytes", Errno.EINVAL);
        _host = host;
        _description = description;
        OpenFlags flags = description.Mode == SoftDiskMode.WriteThrough ? OpenFlags.ReadWrite : OpenFlags.ReadOnly;
        SyscallResult opened = host.Open(description.Path, flags | OpenFlags.CloseOnExec);
        opened.ThrowIfFailed($"Opening disk {description.Path}");
        _file = new KernelFd(host, (int)opened.Value);
        if (description.Mode != SoftDiskMode.Overlay)
            return;
        try
        {
            _overlay = new NvmeOverlay(host, description);
        }
        catch
        {
            // Nothing stays open when the overlay is refused.
            _file.Dispose();
            throw;
        }
    }

    public bool ReadOnly => _description.Mode == SoftDiskMode.ReadOnly;

    public ulong BlockCount =>
        (_description.ByteLength + (1UL << NvmeLimits.BlockShift) - 1) >> NvmeLimits.BlockShift;

    /// <summary>Reads; beyond the file's end there are zeros.</summary>
    public Errno Read(ulong offset, Span<byte> into)
    {
        if (_overlay is null)
            return ReadFile(offset, into);
        while (!into.IsEmpty)
        {
            int run = _overlay.MeasureRun(offset, into.Length, out bool present);
            Errno errno = present ? _overlay.Read(offset, into[..run]) : ReadFile(offset, into[..run]);
            if (errno != Errno.Success)
                return errno;
            offset += (ulong)run;
            into = into[run..];
        }

        return Errno.Success;
    }

    /// <summary>Writes to where the mode says. EROFS: read-only.</summary>
    public Errno Write(ulong offset, ReadOnlySpan<byte> from)
    {
        _unflushed = true;
        return _description.Mode switch
        {
            SoftDiskMode.ReadOnly => Errno.EROFS,
            SoftDiskMode.WriteThrough => WriteFile(offset, from),
            SoftDiskMode.Overlay => WriteOverlay(_overlay!, offset, from),
            _ => Errno.EINVAL,
        };
    }

    /// <summary>Makes written blocks durable. On failure they still count as not flushed.</summary>
    public Errno Flush()
    {
        if (!_unflushed || ReadOnly)
            return Errno.Success;
        Errno errno = _overlay is null ? _host.Fsync(_file.Number).Errno : _overlay.Flush();
        if (errno == Errno.Success)
            _unflushed = false;
        return errno;
    }

    /// <summary>Looks again at which blocks the overlay has: another process may have written until now.</summary>
    public Errno Reload() => _overlay?.Reload() ?? Errno.Success;

    public void Dispose()
    {
        _overlay?.Dispose();
        _file.Dispose();
    }

    private Errno ReadFile(ulong offset, Span<byte> into) =>
        FileBytes.Read(_host, _file, offset, into, _description.ByteLength);

    /// <summary>
    /// LIMIT: the file keeps its length; what a write puts behind it, in a last incomplete block, is dropped.
    /// </summary>
    private Errno WriteFile(ulong offset, ReadOnlySpan<byte> from)
    {
        ulong inside = offset >= _description.ByteLength ? 0 : _description.ByteLength - offset;
        return FileBytes.Write(_host, _file, offset, from[..(int)Math.Min((ulong)from.Length, inside)]);
    }

    private Errno WriteOverlay(NvmeOverlay overlay, ulong offset, ReadOnlySpan<byte> from)
    {
        Span<byte> block = stackalloc byte[NvmeOverlay.BlockBytes];
        while (!from.IsEmpty)
        {
            ulong start = offset / NvmeOverlay.BlockBytes * NvmeOverlay.BlockBytes;
            int inside = (int)(offset - start);
            int take = Math.Min(from.Length, NvmeOverlay.BlockBytes - inside);
            if (take == NvmeOverlay.BlockBytes)
                take = from.Length / NvmeOverlay.BlockBytes * NvmeOverlay.BlockBytes;
            Errno errno;
            if (take >= NvmeOverlay.BlockBytes)
            {
                errno = overlay.WriteBlocks(offset, from[..take]);
            }
            else
            {
                // A part of a block: the rest of it comes from where it is now.
                errno = Read(start, block);
                from[..take].CopyTo(block[inside..]);
                if (errno == Errno.Success)
                    errno = overlay.WriteBlocks(start, block);
            }

            if (errno != Errno.Success)
                return errno;
            offset += (ulong)take;
            from = from[take..];
        }

        return Errno.Success;
    }
}

/// <summary>Whole reads and writes at an offset, over calls that may do less.</summary>
internal static class FileBytes
{
    /// <param name="end">Nothing is read from here on: zeros.</param>
    public static Errno Read(IKernel host, KernelFd file, ulong offset, Span<byte> into, ulong end)
    {
        int wanted = offset >= end ? 0 : (int)Math.Min((ulong)into.Length, end - offset);
        int done = 0;
        while (done < wanted)
        {
            SyscallResult result = host.Pread(file.Number, into[done..wanted], offset + (ulong)done);
            if (result.Errno == Errno.EINTR)
                continue;
            if (!result.Succeeded)
                return result.Errno;
            if (result.Value == 0)
                break;
            done += (int)result.Value;
        }

        into[done..].Clear();
        return Errno.Success;
    }

    public static Errno Write(IKernel host, KernelFd file, ulong offset, ReadOnlySpan<byte> from)
    {
        while (!from.IsEmpty)
        {
            SyscallResult result = host.Pwrite(file.Number, from, offset);
            if (result.Errno == Errno.EINTR)
                continue;
            if (!result.Succeeded)
                return result.Errno;
            if (result.Value == 0)
                return Errno.EIO;
            offset += (ulong)result.Value;
            from = from[(int)result.Value..];
        }

        return Errno.Success;
    }
}
