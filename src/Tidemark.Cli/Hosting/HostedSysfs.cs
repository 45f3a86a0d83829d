using System.Diagnostics.CodeAnalysis;
using Tidemark.Kernel;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// Devices of a soft kernel, limits of the host: a machine's memory and descriptors are this process's own, whatever
/// kernel its devices are from.
/// </summary>
internal sealed class HostedSysfs(ISysfs devices, ISysfs host) : ISysfs
{
    public IReadOnlyList<string> List(string path) => Choose(path).List(path);

    public bool TryReadText(string path, [NotNullWhen(true)] out string? text) => Choose(path).TryReadText(path, out text);

    public bool TryReadLink(string path, [NotNullWhen(true)] out string? target) => Choose(path).TryReadLink(path, out target);

    public bool Exists(string path) => Choose(path).Exists(path);

    private ISysfs Choose(string path) =>
        path.StartsWith("/proc/", StringComparison.Ordinal) || path.StartsWith("/sys/fs/cgroup/", StringComparison.Ordinal)
            ? host : devices;
}
