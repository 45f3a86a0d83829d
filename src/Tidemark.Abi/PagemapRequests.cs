namespace Tidemark.Abi;

/// <summary>The requests of <c>/proc/PID/pagemap</c> (linux/fs.h).</summary>
public static class PagemapRequests
{
    public static IoctlRequest Scan => new(0xC0606610, "PAGEMAP_SCAN");
}
