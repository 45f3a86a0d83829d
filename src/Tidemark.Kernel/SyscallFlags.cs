namespace Tidemark.Kernel;

/// <summary>Flags of open(2), x86-64 and arm64 values but for <see cref="Direct"/>, which is x86-64's.</summary>
[Flags]
public enum OpenFlags : uint
{
    ReadOnly = 0,
    WriteOnly = 1,
    ReadWrite = 2,
    Create = 0x40,
    NonBlocking = 0x800,

    /// <summary>O_DIRECT: past the page cache; buffer, length and offset in whole blocks of the device.</summary>
    Direct = 0x4000,
    CloseOnExec = 0x80000,

    /// <summary>O_PATH: the place in the file system alone; what is there is not opened.</summary>
    Path = 0x200000,
}

/// <summary>PROT_* of mmap(2).</summary>
[Flags]
public enum MemoryProtection : uint
{
    None = 0,
    Read = 1,
    Write = 2,
}

/// <summary>MAP_* of mmap(2).</summary>
[Flags]
public enum MapFlags : uint
{
    Shared = 1,
    Private = 2,
    Anonymous = 0x20,
    NoReserve = 0x4000,
    Populate = 0x8000,
}

/// <summary>MADV_* of madvise(2).</summary>
public enum MemoryAdvice : uint
{
    DontNeed = 4,
    HugePage = 14,
    PopulateRead = 22,
    PopulateWrite = 23,
}

/// <summary>EFD_* of eventfd(2).</summary>
[Flags]
public enum EventfdFlags : uint
{
    None = 0,
    Semaphore = 1,
    NonBlocking = 0x800,
    CloseOnExec = 0x80000,
}

/// <summary>MFD_* of memfd_create(2).</summary>
[Flags]
public enum MemfdFlags : uint
{
    None = 0,
    CloseOnExec = 1,
    AllowSealing = 2,
}

/// <summary>Events of poll(2).</summary>
[Flags]
public enum PollEvents : short
{
    None = 0,
    In = 1,
    Out = 4,
    Error = 8,
    HangUp = 16,
    Invalid = 32,
}

/// <summary>struct pollfd of poll(2).</summary>
public record struct PollDescriptor(int Fd, PollEvents Events, PollEvents Returned);

/// <summary>SEEK_* of lseek(2), as far as used.</summary>
public enum SeekWhence
{
    /// <summary>To the offset itself.</summary>
    Set = 0,

    /// <summary>SEEK_END: so far behind the end of the file.</summary>
    End = 2,

    /// <summary>SEEK_DATA: to the first byte at or behind the offset that is not in a hole.</summary>
    Data = 3,

    /// <summary>SEEK_HOLE: to the first hole at or behind the offset; the end of the file counts as one.</summary>
    Hole = 4,
}
