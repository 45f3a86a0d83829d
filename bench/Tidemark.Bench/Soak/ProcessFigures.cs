using System.Globalization;

namespace Tidemark.Bench.Soak;

/// <summary>What a process holds at one moment, as the kernel counts it.</summary>
/// <param name="Kinds">Descriptors by what they are of.</param>
/// <param name="GuestMappings">Mappings of memfds: guest memory.</param>
/// <param name="PrivateKiB">Resident memory that is no file's and no guest's (RssAnon).</param>
internal sealed record ProcessFigures(
    int Descriptors, int Sockets, IReadOnlyDictionary<string, int> Kinds, int GuestMappings, int Mappings, int Threads, long PrivateKiB)
{
    /// <summary>Null when the process has ended.</summary>
    internal static ProcessFigures? Read(int process)
    {
        try
        {
            string[] links = [.. Directory.EnumerateFileSystemEntries($"/proc/{process}/fd")
                .Select(path => new FileInfo(path).LinkTarget ?? "")
                // Code that was used for the first time, also when it was built anew meanwhile.
                .Where(link => !link.EndsWith(".dll", StringComparison.Ordinal) && !link.EndsWith(".dll (deleted)", StringComparison.Ordinal))];
            string[] maps = File.ReadAllLines($"/proc/{process}/maps");
            string[] status = File.ReadAllLines($"/proc/{process}/status");
            return new ProcessFigures(
                links.Length, links.Count(link => link.StartsWith("socket:", StringComparison.Ordinal)),
                links.GroupBy(KindOf).ToDictionary(kind => kind.Key, kind => kind.Count()),
                maps.Count(line => line.Contains("/memfd:", StringComparison.Ordinal)
                    && !line.Contains("doublemapper", StringComparison.Ordinal)),
                maps.Length, (int)Field(status, "Threads:"), Field(status, "RssAnon:"));
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // It ended between two looks.
            return null;
        }
    }

    /// <summary>What grew, with how much of it there was before and is now.</summary>
    internal string DescribeGrowth(ProcessFigures before) => string.Join(", ", Kinds
        .Where(kind => kind.Value > before.Kinds.GetValueOrDefault(kind.Key))
        .Select(kind => $"{kind.Key} {before.Kinds.GetValueOrDefault(kind.Key)} to {kind.Value}"));

    private static string KindOf(string link)
    {
        int number = link.IndexOf(":[", StringComparison.Ordinal);
        return number < 0 || link.StartsWith("anon_inode", StringComparison.Ordinal) ? link : link[..number];
    }

    private static long Field(string[] status, string name)
    {
        string line = Array.Find(status, text => text.StartsWith(name, StringComparison.Ordinal)) ?? $"{name} 0";
        return long.Parse(line[name.Length..].Replace("kB", "", StringComparison.Ordinal).Trim(), CultureInfo.InvariantCulture);
    }
}
