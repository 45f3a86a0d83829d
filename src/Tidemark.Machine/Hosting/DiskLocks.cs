using System.Diagnostics;
using Tidemark.Machine.Description;

namespace Tidemark.Machine.Hosting;

/// <summary>
/// The right to write a machine's disks: an exclusive lock (flock) beside each file that is written, held by the side
/// that runs. Read-only disks need none.
/// </summary>
/// <remarks>
/// The lock is on <c>FILE.lock</c> and not on the file itself, because .NET takes a shared lock on every file it opens:
/// reading the disk, here or elsewhere, would collide with the right to write it. The lock file stays behind, empty:
/// removing it could pull it away under somebody who is just taking it.
/// </remarks>
public sealed class DiskLocks : IDisposable
{
    private readonly string[] _paths;
    private readonly List<FileStream> _held = [];

    public DiskLocks(SoftHostDescription? host)
    {
        _paths = host is null ? [] : [.. host.Devices
            .Select(device => device.Mode switch
            {
                DiskMode.Overlay => device.Overlay,
                DiskMode.WriteThrough => device.Disk,
                _ => null,
            })
            .OfType<string>().Distinct(StringComparer.Ordinal)];
    }

    /// <summary>Why a disk could not be written here, without taking it; empty when all could.</summary>
    public IReadOnlyList<string> FindObstacles()
    {
        var obstacles = new List<string>();
        foreach (string path in _paths)
        {
            try
            {
                using var probe = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.ReadWrite);
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                // Nothing was opened.
                obstacles.Add($"The disk file {path} can not be opened for writing: {failure.Message}");
            }
        }

        return obstacles;
    }

    /// <summary>Takes all locks, or none.</summary>
    /// <exception cref="IOException">Somebody else holds one after <paramref name="wait"/>.</exception>
    public void Acquire(TimeSpan wait)
    {
        long began = Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                foreach (string path in _paths.Skip(_held.Count).ToArray())
                    _held.Add(new FileStream(path + ".lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
                return;
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                // Those taken so far are kept while we wait, and given back when we give up.
                if (Stopwatch.GetElapsedTime(began) >= wait)
                {
                    string path = _paths[_held.Count];
                    Release();
                    throw new IOException($"The disk file {path} is in use by another machine, or can not be written: {failure.Message}", failure);
                }
            }

            using var pause = new ManualResetEventSlim();
            pause.Wait(TimeSpan.FromMilliseconds(20));
        }
    }

    public void Release()
    {
        _held.ForEach(file => file.Dispose());
        _held.Clear();
    }

    public void Dispose() => Release();
}
