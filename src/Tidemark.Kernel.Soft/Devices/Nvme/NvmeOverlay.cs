using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// A sparse file that takes the written blocks of a disk whose own file is never touched.
/// </summary>
/// <remarks>
/// <code>
/// 0                    data end             bitmap end
/// | blocks, each at    | presence bitmap,   | 4 KiB: magic, version, namespace bytes, block bytes |
/// | its own offset     | a bit per 4 KiB    |                                                     |
/// </code>
/// A block is written before its bit. A file of length 0 becomes an overlay; any other whose length and last page do
/// not
/// say that it is one of this namespace is refused and left alone.
/// </remarks>
internal sealed class NvmeOverlay : IDisposable
{
    public const int BlockBytes = 4096;

    private const ulong Magic = 0x3159_4c52_564f_4d54; // "TMOVRLY1"

    /// <summary>LIMIT: the bitmap is held in memory, 128 MiB for the longest namespace.</summary>
    private const ulong MaximumByteLength = 4UL << 40;

    private readonly IKernel _host;
    private readonly KernelFd _file;
    private readonly ulong _namespaceBytes;
    private readonly ulong _dataEnd;
    private readonly ulong _bitmapEnd;
    private readonly byte[] _bitmap;

    /// <exception cref="KernelException">The file can not be opened, or it is something else.</exception>
    public NvmeOverlay(IKernel host, SoftDisk disk)
    {
        string path = disk.OverlayPath ?? throw new KernelException(
            $"Opening an overlay for disk {disk.Path}", Errno.EINVAL, "The disk's description names no overlay file.");
        if (disk.ByteLength > MaximumByteLength)
            throw new KernelException($"Opening overlay {path} for {disk.ByteLength} bytes", Errno.EFBIG);
        _host = host;
        _namespaceBytes = disk.ByteLength;
        ulong blocks = (disk.ByteLength + BlockBytes - 1) / BlockBytes;
        _dataEnd = blocks * BlockBytes;
        _bitmap = new byte[(blocks + 7) / 8];
        _bitmapEnd = _dataEnd + ((ulong)_bitmap.Length + BlockBytes - 1) / BlockBytes * BlockBytes;
        SyscallResult opened = host.Open(path, OpenFlags.ReadWrite | OpenFlags.Create | OpenFlags.CloseOnExec);
        opened.ThrowIfFailed($"Opening overlay {path}");
        _file = new KernelFd(host, (int)opened.Value);
        Errno errno = Identify();
        if (errno == Errno.Success)
            errno = Reload();
        if (errno == Errno.Success)
            return;
        _file.Dispose();
        throw new KernelException(
            $"Opening overlay {path}", errno,
            errno == Errno.EINVAL ? "It is not an overlay of this disk; use a new or empty file." : null);
    }

    /// <summary>How many of the bytes from an offset on lie in blocks that are all present, or all absent.</summary>
    public int MeasureRun(ulong offset, int maximum, out bool present)
    {
        ulong block = offset / BlockBytes;
        present = IsPresent(block);
        int run = (int)Math.Min((ulong)maximum, (block + 1) * BlockBytes - offset);
        while (run < maximum && IsPresent(++block) == present)
            run = Math.Min(maximum, run + BlockBytes);
        return run;
    }

    public Errno Read(ulong offset, Span<byte> into) => FileBytes.Read(_host, _file, offset, into, _dataEnd);

    /// <summary>Writes whole blocks and marks them.</summary>
    public Errno WriteBlocks(ulong offset, ReadOnlySpan<byte> blocks)
    {
        Errno errno = FileBytes.Write(_host, _file, offset, blocks);
        if (errno != Errno.Success)
            return errno;
        ulong first = offset / BlockBytes;
        ulong last = first + (ulong)(blocks.Length / BlockBytes) - 1;
        bool changed = false;
        for (ulong block = first; block <= last; block++)
        {
            byte bit = (byte)(1 << (int)(block & 7));
            changed |= (_bitmap[block >> 3] & bit) == 0;
            _bitmap[block >> 3] |= bit;
        }

        if (!changed)
            return Errno.Success;
        int from = (int)(first >> 3);
        return FileBytes.Write(_host, _file, _dataEnd + (ulong)from, _bitmap.AsSpan(from, (int)(last >> 3) - from + 1));
    }

    public Errno Flush() => _host.Fsync(_file.Number).Errno;

    public Errno Reload() => FileBytes.Read(_host, _file, _dataEnd, _bitmap, _bitmapEnd);

    public void Dispose() => _file.Dispose();

    private bool IsPresent(ulong block) =>
        block >> 3 < (ulong)_bitmap.Length && (_bitmap[block >> 3] & 1 << (int)(block & 7)) != 0;

    /// <summary>Reads the last page, or writes it when the file is empty. EINVAL: the file is something else.</summary>
    private Errno Identify()
    {
        Span<byte> page = stackalloc byte[BlockBytes];
        SyscallResult start = _host.Pread(_file.Number, page[..1], 0);
        if (!start.Succeeded)
            return start.Errno;
        Span<byte> expected = stackalloc byte[BlockBytes];
        expected.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(expected, Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(expected[8..], 1);
        BinaryPrimitives.WriteUInt32LittleEndian(expected[12..], BlockBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(expected[16..], _namespaceBytes);
        if (start.Value == 0)
            return FileBytes.Write(_host, _file, _bitmapEnd, expected);
        Errno errno = FileBytes.Read(_host, _file, _bitmapEnd, page, ulong.MaxValue);
        if (errno != Errno.Success)
            return errno;
        SyscallResult beyond = _host.Pread(_file.Number, stackalloc byte[1], _bitmapEnd + BlockBytes);
        return page.SequenceEqual(expected) && beyond.Value == 0 ? Errno.Success : Errno.EINVAL;
    }
}
