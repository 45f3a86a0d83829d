using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Machine.Snapshot;

/// <summary>
/// A snapshot that is being written: <c>FILE.partial-PID</c> beside the file it will be, so that giving it its name is
/// one step.
/// </summary>
/// <remarks>
/// A lock (flock) on the partial file says that somebody writes it. One without a lock was left by a process that was
/// killed: the next save to the same name removes it, and <see cref="FindPartial"/> tells it from one that is in use.
/// The name has the process's number in it, so no process ever removes or renames what another one writes.
/// </remarks>
public sealed class NewSnapshotFile : SnapshotFile, INewSnapshotFile
{
    private const string PartialSuffix = ".partial-";

    private readonly IKernel _kernel;
    private readonly FileStream _lock;
    private readonly string _partial;
    private bool _published;

    private NewSnapshotFile(IKernel kernel, string path, string partial, FileStream @lock, DirectIO direct)
        : base(kernel, path, partial, OpenFlags.ReadWrite, direct)
    {
        _kernel = kernel;
        _partial = partial;
        _lock = @lock;
    }

    /// <summary>Makes the partial file, and removes those that killed processes left.</summary>
    /// <param name="path">The name that the file will have. An ordinary file there is replaced only if it is a
    /// snapshot.</param>
    /// <exception cref="IOException">The file can not be made; nothing was changed.</exception>
    public static NewSnapshotFile Create(IKernel kernel, string path, DirectIO direct)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        path = System.IO.Path.GetFullPath(path);
        RequireReplaceable(path);
        foreach ((string partial, bool isInUse) in FindPartial(path))
        {
            if (!isInUse)
                File.Delete(partial);
        }

        string name = string.Create(CultureInfo.InvariantCulture, $"{path}{PartialSuffix}{Environment.ProcessId}");
        FileStream? held = null;
        try
        {
            held = new FileStream(name, new FileStreamOptions
            {
                Mode = FileMode.CreateNew, Access = FileAccess.ReadWrite, Share = FileShare.None, BufferSize = 0,
                UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
            });
            // Between its making and its lock somebody may have taken it for a leftover.
            if (!File.Exists(name))
                throw new IOException("Another save to the same file removed it.");
            return new NewSnapshotFile(kernel, path, name, held, direct);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // What this call made is removed; what was there before stays.
            if (held is not null)
            {
                File.Delete(name);
                held.Dispose();
            }

            throw new IOException($"{path} can not be written: {failure.Message}", failure);
        }
    }

    /// <summary>Partial files of this name, and whether somebody writes them now.</summary>
    public static IReadOnlyList<(string Path, bool IsInUse)> FindPartial(string path)
    {
        path = System.IO.Path.GetFullPath(path);
        string folder = System.IO.Path.GetDirectoryName(path) ?? "/";
        string start = System.IO.Path.GetFileName(path) + PartialSuffix;
        if (!Directory.Exists(folder))
            return [];
        return [.. Directory.EnumerateFiles(folder)
            .Where(file => System.IO.Path.GetFileName(file).StartsWith(start, StringComparison.Ordinal)
                && System.IO.Path.GetFileName(file)[start.Length..] is { Length: > 0 and <= 10 } number
                && number.All(char.IsAsciiDigit))
            .Order(StringComparer.Ordinal)
            .Select(file => (file, IsInUse(file)))];
    }

    public void SetLength(ulong byteLength)
    {
        SyscallResult sized = _kernel.Ftruncate(BufferedFd, byteLength);
        if (!sized.Succeeded)
            throw Failed("Setting the length", 0, 0, sized.Errno);
    }

    public void Write(ReadOnlySpan<byte> bytes, ulong offset) => WriteAll(bytes, offset);

    public void WritePages(ReadOnlySpan<byte> pages, ulong offset)
    {
        int done = WriteDirect(pages, offset);
        if (done < pages.Length)
            WriteAll(pages[done..], offset + (ulong)done);
    }

    public void Sync()
    {
        SyscallResult synced = _kernel.Fsync(BufferedFd);
        if (!synced.Succeeded)
            throw Failed("Putting into stable storage what was written", 0, 0, synced.Errno);
    }

    public void Publish()
    {
        RequireReplaceable(Path);
        try
        {
            File.Move(_partial, Path, overwrite: true);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // It has its partial name still, and what had the name before has it.
            throw new IOException($"{_partial} could not be renamed to {Path}: {failure.Message}", failure);
        }

        // The name is in stable storage when the folder is.
        string folder = System.IO.Path.GetDirectoryName(Path) ?? "/";
        SyscallResult opened = _kernel.Open(folder, OpenFlags.ReadOnly);
        if (!opened.Succeeded)
            throw Unpublish($"{folder} could not be opened: {opened.Errno}.");
        using var descriptor = new KernelFd(_kernel, (int)opened.Value);
        SyscallResult synced = _kernel.Fsync(descriptor.Number);
        if (!synced.Succeeded && synced.Errno != Errno.EINVAL)
            throw Unpublish($"{folder} could not be synced: {synced.Errno}.");
        _published = true;
    }

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (!disposing)
            return;
        if (!_published)
        {
            try
            {
                File.Delete(_partial);
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                // It says of itself that it is unfinished, and the next save to the same name removes it.
            }
        }

        _lock.Dispose();
    }

    /// <summary>A file whose name may not survive a power failure must not be taken for a saved machine.</summary>
    private IOException Unpublish(string why)
    {
        File.Delete(Path);
        return new IOException($"{Path} was removed again, because its name could not be put into stable storage: {why}");
    }

    private static bool IsInUse(string partial)
    {
        try
        {
            using var probe = new FileStream(partial, FileMode.Open, FileAccess.ReadWrite, FileShare.None, bufferSize: 0);
            return false;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Locked, just gone, or not ours to remove: in each case it is left alone.
            return true;
        }
    }

    /// <summary>A slip of the keyboard must not replace a disk by a snapshot.</summary>
    private static void RequireReplaceable(string path)
    {
        try
        {
            FileAttributes attributes = File.GetAttributes(path);
            if ((attributes & FileAttributes.Directory) != 0)
                throw new IOException($"{path} is a folder. Name a file in it.");
            var info = new FileInfo(path);
            if (info.LinkTarget is not null || (attributes & FileAttributes.Device) != 0 || !IsSnapshot(path))
                throw new IOException($"{path} exists and is not a snapshot, so it is not replaced. Name another file, or delete it first.");
        }
        catch (FileNotFoundException)
        {
            // The usual case: the name is free.
        }
        catch (DirectoryNotFoundException)
        {
            throw new IOException($"The folder of {path} does not exist.");
        }
        catch (UnauthorizedAccessException failure)
        {
            throw new IOException($"{path} can not be looked at: {failure.Message}", failure);
        }
    }

    private static bool IsSnapshot(string path)
    {
        // FileShare.ReadWrite: a save, or a restore, of the same snapshot may be under way.
        var info = new FileInfo(path);
        if (info.Length == 0)
            return false;
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
        Span<byte> magic = stackalloc byte[8];
        return file.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false) == magic.Length && magic.SequenceEqual("TIDESNAP"u8);
    }
}
