namespace Tidemark.Bench;

/// <summary>The guest memory of a machine's process, through the memfd that it holds.</summary>
internal static class ProcessMemory
{
    internal static FileStream Open(int processId, FileAccess access)
    {
        foreach (string link in Directory.EnumerateFiles($"/proc/{processId}/fd"))
        {
            if (new FileInfo(link).LinkTarget?.StartsWith("/memfd:tidemark-guest", StringComparison.Ordinal) == true)
                return new FileStream(link, FileMode.Open, access, FileShare.ReadWrite, bufferSize: 0);
        }

        throw new InvalidOperationException($"Process {processId} holds no guest memory.");
    }
}
