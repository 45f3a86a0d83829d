using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>What is known of a page (linux/fs.h).</summary>
[Flags]
[Uapi("PAGE_IS_*", Since = "6.7")]
public enum PageCategories : ulong
{
    None = 0,

    /// <summary>Its mapping is tracked by asynchronous write protection.</summary>
    [Uapi("PAGE_IS_WPALLOWED")]
    WpAllowed = 1,

    /// <summary>Written since it was last protected.</summary>
    Written = 2,
    File = 4,
    Present = 8,
    Swapped = 0x10,
    [Uapi("PAGE_IS_PFNZERO")]
    PfnZero = 0x20,
    Huge = 0x40,
    SoftDirty = 0x80,
    Guard = 0x100,
    Accessed = 0x200,
}

/// <summary>Flags of <see cref="PagemapScanArgument"/> (linux/fs.h).</summary>
[Flags]
[Uapi("PM_SCAN_*", Since = "6.7")]
public enum PagemapScanFlags : ulong
{
    None = 0,

    /// <summary>Write-protect what matches, in the same step.</summary>
    WpMatching = 1,

    /// <summary>Fail with EPERM where a mapping is not tracked.</summary>
    [Uapi("PM_SCAN_CHECK_WPASYNC")]
    CheckWpAsync = 2,
}

/// <summary>A run of pages with the same categories; the end is exclusive (C: page_region, linux/fs.h).</summary>
[Uapi("page_region", Since = "6.7")]
[StructLayout(LayoutKind.Sequential)]
public struct PageRegion
{
    public ulong Start;
    public ulong End;
    public PageCategories Categories;
}

/// <summary>
/// Finds, and optionally write-protects, pages by category, on /proc/PID/pagemap (C: pm_scan_arg, linux/fs.h). The
/// call's result is the number of regions written; the walk's end says where to go on.
/// </summary>
[Uapi("pm_scan_arg", Since = "6.7")]
[StructLayout(LayoutKind.Sequential)]
public struct PagemapScanArgument : IIoctlArgument<PagemapScanArgument>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 96;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 96;

    public ulong Size;
    public PagemapScanFlags Flags;
    public ulong Start;
    public ulong End;

    /// <summary>Out: where the walk stopped.</summary>
    public ulong WalkEnd;

    /// <summary>Address of an array of <see cref="PageRegion"/>.</summary>
    public ulong Vec;

    /// <summary>In elements.</summary>
    public ulong VecLen;

    /// <summary>0 for no limit.</summary>
    public ulong MaxPages;
    public PageCategories CategoryInverted;

    /// <summary>All of these are wanted.</summary>
    public PageCategories CategoryMask;

    /// <summary>At least one of these is wanted, unless 0.</summary>
    public PageCategories CategoryAnyofMask;

    /// <summary>What is reported in the regions.</summary>
    public PageCategories ReturnMask;

    public static IoctlRequest Request => PagemapRequests.Scan;

    public static PagemapScanArgument Create(
        ulong start, ulong end, PagemapScanFlags flags, ulong vec, ulong vecLen) => new()
    {
        Size = StructSize,
        Start = start,
        End = end,
        Flags = flags,
        Vec = vec,
        VecLen = vecLen,
    };
}
