using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Flags of the call userfaultfd(2) (linux/userfaultfd.h, asm/fcntl.h).</summary>
[Flags]
public enum UserfaultfdFlags : int
{
    None = 0,

    /// <summary>Faults taken by the kernel on the process's behalf are not handled.</summary>
    [Uapi("UFFD_USER_MODE_ONLY")]
    UserModeOnly = 1,
    [Uapi("O_NONBLOCK")]
    NonBlock = 0x800,
    [Uapi("O_CLOEXEC")]
    CloseOnExec = 0x80000,
}

/// <summary>What a userfaultfd offers or is asked for (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFD_FEATURE_*", Since = "4.11")]
public enum UffdFeatures : ulong
{
    None = 0,
    PagefaultFlagWp = 1,
    EventFork = 0x2,
    EventRemap = 0x4,
    EventRemove = 0x8,
    MissingHugetlbfs = 0x10,
    MissingShmem = 0x20,
    EventUnmap = 0x40,
    Sigbus = 0x80,
    ThreadId = 0x100,
    MinorHugetlbfs = 0x200,
    MinorShmem = 0x400,
    ExactAddress = 0x800,

    /// <summary>Write protection of files and huge pages.</summary>
    WpHugetlbfsShmem = 0x1000,

    /// <summary>Write protection of anonymous pages that are not there yet.</summary>
    WpUnpopulated = 0x2000,
    Poison = 0x4000,

    /// <summary>A write lifts the protection by itself, without a message.</summary>
    WpAsync = 0x8000,
    Move = 0x10000,
    Rwp = 0x20000,
    RwpAsync = 0x40000,
}

/// <summary>
/// Numbers of the requests: the bits of the masks that UFFDIO_API and UFFDIO_REGISTER answer (linux/userfaultfd.h).
/// </summary>
[Uapi("_UFFDIO_*", Since = "4.3")]
public enum UffdIoctlNumber : byte
{
    Register = 0,
    Unregister = 1,
    Wake = 2,
    Copy = 3,
    Zeropage = 4,
    Move = 5,
    Writeprotect = 6,
    Continue = 7,
    Poison = 8,
    Rwprotect = 9,
    SetMode = 10,
    Api = 0x3F,
}

/// <summary>
/// The handshake, once per descriptor (C: uffdio_api, linux/userfaultfd.h). An unknown feature answers EINVAL and wipes
/// the struct; with no features asked, all that exist come back.
/// </summary>
[Uapi("uffdio_api", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioApi : IIoctlArgument<UffdioApi>
{
    /// <summary>The only API value there is.</summary>
    [Uapi("UFFD_API")]
    public const ulong ApiValue = 0xAA;

    public ulong Api;
    public UffdFeatures Features;

    /// <summary>Bits by <see cref="UffdIoctlNumber"/>.</summary>
    public ulong Ioctls;

    public static IoctlRequest Request => UserfaultfdRequests.Api;

    public static UffdioApi Create(UffdFeatures features) => new()
    {
        Features = features,
        Api = ApiValue,
    };
}

/// <summary>
/// A range of addresses; the whole argument of UFFDIO_UNREGISTER and UFFDIO_WAKE (C: uffdio_range,
/// linux/userfaultfd.h).
/// </summary>
[Uapi("uffdio_range", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioRange
{
    public ulong Start;
    public ulong Len;
}

/// <summary>Which faults are handled (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFDIO_REGISTER_MODE_*", Since = "4.3")]
public enum UffdioRegisterMode : ulong
{
    None = 0,
    Missing = 1,
    Wp = 2,
    Minor = 4,
    Rwp = 8,
}

/// <summary>Registers a range (C: uffdio_register, linux/userfaultfd.h).</summary>
[Uapi("uffdio_register", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioRegister : IIoctlArgument<UffdioRegister>
{
    public UffdioRange Range;
    public UffdioRegisterMode Mode;

    /// <summary>Out: bits by <see cref="UffdIoctlNumber"/>.</summary>
    public ulong Ioctls;

    public static IoctlRequest Request => UserfaultfdRequests.Register;

    public static UffdioRegister Create(UffdioRange range, UffdioRegisterMode mode) => new()
    {
        Range = range,
        Mode = mode,
    };
}

/// <summary>Flags of <see cref="UffdioWriteprotect"/> (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFDIO_WRITEPROTECT_MODE_*", Since = "5.7")]
public enum UffdioWriteprotectMode : ulong
{
    None = 0,

    /// <summary>Protect; without it, unprotect.</summary>
    Wp = 1,
    [Uapi("UFFDIO_WRITEPROTECT_MODE_DONTWAKE")]
    DontWake = 2,
}

/// <summary>Write-protects a registered range, or stops that (C: uffdio_writeprotect, linux/userfaultfd.h).</summary>
[Uapi("uffdio_writeprotect", Since = "5.7")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioWriteprotect : IIoctlArgument<UffdioWriteprotect>
{
    public UffdioRange Range;
    public UffdioWriteprotectMode Mode;

    public static IoctlRequest Request => UserfaultfdRequests.Writeprotect;

    public static UffdioWriteprotect Create(UffdioRange range, UffdioWriteprotectMode mode) => new()
    {
        Range = range,
        Mode = mode,
    };
}

/// <summary>Flags of <see cref="UffdioCopy"/> (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFDIO_COPY_MODE_*", Since = "4.3")]
public enum UffdioCopyMode : ulong
{
    None = 0,
    [Uapi("UFFDIO_COPY_MODE_DONTWAKE")]
    DontWake = 1,
    Wp = 2,
}

/// <summary>Fills missing pages (C: uffdio_copy, linux/userfaultfd.h).</summary>
[Uapi("uffdio_copy", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioCopy : IIoctlArgument<UffdioCopy>
{
    public ulong Dst;
    public ulong Src;
    public ulong Len;
    public UffdioCopyMode Mode;

    /// <summary>Out: bytes copied, or a negative error number.</summary>
    public long Copy;

    public static IoctlRequest Request => UserfaultfdRequests.Copy;

    public static UffdioCopy Create(ulong dst, ulong src, ulong len, UffdioCopyMode mode = UffdioCopyMode.None) => new()
    {
        Dst = dst,
        Src = src,
        Len = len,
        Mode = mode,
    };
}

/// <summary>Flags of <see cref="UffdioZeropage"/> (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFDIO_ZEROPAGE_MODE_*", Since = "4.3")]
public enum UffdioZeropageMode : ulong
{
    None = 0,
    [Uapi("UFFDIO_ZEROPAGE_MODE_DONTWAKE")]
    DontWake = 1,
}

/// <summary>Fills missing pages with zeros (C: uffdio_zeropage, linux/userfaultfd.h).</summary>
[Uapi("uffdio_zeropage", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioZeropage : IIoctlArgument<UffdioZeropage>
{
    public UffdioRange Range;
    public UffdioZeropageMode Mode;

    /// <summary>Out: bytes filled, or a negative error number.</summary>
    public long Zeropage;

    public static IoctlRequest Request => UserfaultfdRequests.Zeropage;

    public static UffdioZeropage Create(UffdioRange range, UffdioZeropageMode mode = UffdioZeropageMode.None) => new()
    {
        Range = range,
        Mode = mode,
    };
}

/// <summary>Flags of <see cref="UffdioContinue"/> (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFDIO_CONTINUE_MODE_*", Since = "5.13")]
public enum UffdioContinueMode : ulong
{
    None = 0,
    [Uapi("UFFDIO_CONTINUE_MODE_DONTWAKE")]
    DontWake = 1,
    Wp = 2,
}

/// <summary>Maps pages that the file already has (C: uffdio_continue, linux/userfaultfd.h).</summary>
[Uapi("uffdio_continue", Since = "5.13")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdioContinue : IIoctlArgument<UffdioContinue>
{
    public UffdioRange Range;
    public UffdioContinueMode Mode;

    /// <summary>Out: bytes mapped, or a negative error number.</summary>
    public long Mapped;

    public static IoctlRequest Request => UserfaultfdRequests.Continue;

    public static UffdioContinue Create(UffdioRange range, UffdioContinueMode mode = UffdioContinueMode.None) => new()
    {
        Range = range,
        Mode = mode,
    };
}

/// <summary>What a <see cref="UffdMsg"/> tells (linux/userfaultfd.h).</summary>
[Uapi("UFFD_EVENT_*", Since = "4.3")]
public enum UffdEvent : byte
{
    Pagefault = 0x12,
    Fork = 0x13,
    Remap = 0x14,
    Remove = 0x15,
    Unmap = 0x16,
}

/// <summary>Which kind of fault a message tells of (linux/userfaultfd.h).</summary>
[Flags]
[Uapi("UFFD_PAGEFAULT_FLAG_*", Since = "4.3")]
public enum UffdPagefaultFlags : ulong
{
    None = 0,
    Write = 1,
    Wp = 2,
    Minor = 4,
    Rwp = 8,
}

/// <summary>One message read from a userfaultfd (C: uffd_msg, linux/userfaultfd.h).</summary>
[Uapi("uffd_msg", Since = "4.3")]
[StructLayout(LayoutKind.Sequential)]
public struct UffdMsg
{
    public UffdEvent Event;
    public byte Reserved1;
    public ushort Reserved2;
    public uint Reserved3;
    public UffdMsgArg Arg;
}
