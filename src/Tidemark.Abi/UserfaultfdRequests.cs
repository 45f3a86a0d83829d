namespace Tidemark.Abi;

/// <summary>The requests of linux/userfaultfd.h. They encode the argument's size and direction.</summary>
public static class UserfaultfdRequests
{
    /// <summary>On <c>/dev/userfaultfd</c>: answers a new descriptor; the argument is userfaultfd(2)'s flags.</summary>
    public static IoctlRequest New => new(0x0000AA00, "USERFAULTFD_IOC_NEW");

    public static IoctlRequest Register => new(0xC020AA00, "UFFDIO_REGISTER");
    public static IoctlRequest Unregister => new(0x8010AA01, "UFFDIO_UNREGISTER");
    public static IoctlRequest Wake => new(0x8010AA02, "UFFDIO_WAKE");
    public static IoctlRequest Copy => new(0xC028AA03, "UFFDIO_COPY");
    public static IoctlRequest Zeropage => new(0xC020AA04, "UFFDIO_ZEROPAGE");
    public static IoctlRequest Writeprotect => new(0xC018AA06, "UFFDIO_WRITEPROTECT");
    public static IoctlRequest Continue => new(0xC020AA07, "UFFDIO_CONTINUE");
    public static IoctlRequest Api => new(0xC018AA3F, "UFFDIO_API");
}
