using System.Globalization;
using Tidemark.Kernel;
using Tidemark.Machine.Description;

namespace Tidemark.Machine.Hosting;

/// <summary>
/// What this host must have left for a machine to arrive, looked at before pass 0: afterwards it would be found by a
/// process that is killed. Memory that is mapped for DMA and device descriptors are no estimate: both exist already
/// when the machine waits.
/// </summary>
public static class HostLimits
{
    /// <summary>LIMIT: descriptors that a migration needs beside its channels (listener, state streams, log).</summary>
    private const ulong SpareDescriptors = 16;

    /// <summary>Sentences for users; empty when all is well or nothing can be found out.</summary>
    public static IReadOnlyList<string> FindShortages(ISysfs sysfs, ulong memoryBytes, bool memoryIsTouched, int channels)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        var shortages = new List<string>();
        if (!memoryIsTouched && FindMemoryShortage(sysfs, memoryBytes, "Receiving the machine") is { } shortage)
            shortages.Add(shortage);

        if (ReadLimit(sysfs, "Max open files") is { } limit)
        {
            ulong open = (ulong)sysfs.List("/proc/self/fd").Count;
            ulong needed = open + (ulong)channels + SpareDescriptors;
            if (needed > limit)
            {
                shortages.Add(
                    $"The receiver may open {limit} files, has {open} open and needs {needed}. Raise the limit there (ulimit -n {needed + 64}).");
            }
        }

        return shortages;
    }

    /// <summary>
    /// Whether touching so much memory that was never touched would exhaust the host: better told than found out by a
    /// process that is killed. Null when it fits or nothing can be found out.
    /// </summary>
    /// <param name="purpose">What would touch it, as a sentence's beginning.</param>
    public static string? FindMemoryShortage(ISysfs sysfs, ulong untouchedBytes, string purpose)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return ReadAvailableMemory(sysfs) is { } available && available < untouchedBytes
            ? $"{purpose} takes {ByteSize.Format(untouchedBytes)} of memory, and the host has {ByteSize.Format(available)} available. Give it more, or use a smaller machine."
            : null;
    }

    /// <summary>Shared memory that this process has touched, in bytes; 0 when unknown.</summary>
    public static ulong ReadTouchedSharedMemory(ISysfs sysfs)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        if (!sysfs.TryReadText("/proc/self/status", out string? text))
            return 0;
        string? line = text.Split('\n').FirstOrDefault(line => line.StartsWith("RssShmem:", StringComparison.Ordinal));
        return line is not null
            && ulong.TryParse(line["RssShmem:".Length..].Replace("kB", "", StringComparison.Ordinal).Trim(), CultureInfo.InvariantCulture, out ulong kib)
            ? kib << 10
            : 0;
    }

    private static ulong? ReadAvailableMemory(ISysfs sysfs)
    {
        ulong? available = null;
        if (sysfs.TryReadText("/proc/meminfo", out string? text))
        {
            string? line = text.Split('\n').FirstOrDefault(line => line.StartsWith("MemAvailable:", StringComparison.Ordinal));
            string? number = line?.Split(' ', StringSplitOptions.RemoveEmptyEntries).ElementAtOrDefault(1);
            if (ulong.TryParse(number, CultureInfo.InvariantCulture, out ulong kib) && kib <= ulong.MaxValue >> 10)
                available = kib << 10;
        }

        // A control group may allow less than the host has.
        if (sysfs.TryReadText("/sys/fs/cgroup/memory.max", out string? maximum)
            && ulong.TryParse(maximum, CultureInfo.InvariantCulture, out ulong bound)
            && sysfs.TryReadText("/sys/fs/cgroup/memory.current", out string? current)
            && ulong.TryParse(current, CultureInfo.InvariantCulture, out ulong used))
        {
            // Pages of files count as used and are given up when memory is wanted.
            used -= Math.Min(used, ReadFileCache(sysfs));
            ulong left = bound > used ? bound - used : 0;
            available = Math.Min(available ?? left, left);
        }

        return available;
    }

    /// <summary>The control group's page cache without shared memory, in bytes; 0 when unknown.</summary>
    private static ulong ReadFileCache(ISysfs sysfs)
    {
        if (!sysfs.TryReadText("/sys/fs/cgroup/memory.stat", out string? text))
            return 0;
        ulong bytes = 0;
        foreach (string line in text.Split('\n'))
        {
            string[] words = line.Split(' ');
            if (words is ["inactive_file" or "active_file", _]
                && ulong.TryParse(words[1], CultureInfo.InvariantCulture, out ulong part) && part <= 1UL << 60)
                bytes += part;
        }

        return bytes;
    }

    private static ulong? ReadLimit(ISysfs sysfs, string name)
    {
        if (!sysfs.TryReadText("/proc/self/limits", out string? text))
            return null;
        string? line = text.Split('\n').FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal));
        string? soft = line?[name.Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries).FirstOrDefault();
        return ulong.TryParse(soft, CultureInfo.InvariantCulture, out ulong value) ? value : null;
    }
}
