namespace Tidemark.Nvme;

/// <summary>Register CAP. NVM Express 1.4 section 3.1.1.</summary>
public readonly record struct ControllerCapabilities(ulong Value)
{
    /// <summary>CAP.CMBS: the controller memory buffer is there, to be enabled by CMBMSC.</summary>
    private const ulong ControllerMemoryBit = 1UL << 57;

    private const ulong NvmCommandSetBit = 1UL << 37;

    private const ulong ContiguousBit = 1UL << 16;

    /// <summary>MQES: entries of the longest I/O queue, 2 to 65536.</summary>
    public uint MaximumQueueEntries => (uint)(Value & 0xffff) + 1;

    /// <summary>CQR: queues must be physically contiguous.</summary>
    public bool ContiguousQueuesRequired => (Value & ContiguousBit) != 0;

    /// <summary>TO: how long enabling or disabling may take.</summary>
    public TimeSpan ReadyTimeout => TimeSpan.FromMilliseconds(500 * Math.Max(1, (double)(Value >> 24 & 0xff)));

    /// <summary>DSTRD: distance of two doorbells, 4 bytes or more.</summary>
    public uint DoorbellStrideBytes => 4u << (int)(Value >> 32 & 0xf);

    /// <summary>CSS bit 0.</summary>
    public bool HasNvmCommandSet => (Value & NvmCommandSetBit) != 0;

    /// <summary>MPSMIN: log2 of the smallest memory page.</summary>
    public int MinimumPageShift => 12 + (int)(Value >> 48 & 0xf);

    /// <summary>MPSMAX: log2 of the largest memory page.</summary>
    public int MaximumPageShift => 12 + (int)(Value >> 52 & 0xf);

    /// <summary>CMBS.</summary>
    public bool HasControllerMemory => (Value & ControllerMemoryBit) != 0;

    /// <summary>
    /// A controller with the NVM command set, contiguous queues, 4 KiB memory pages and doorbells side by side.
    /// </summary>
    public static ControllerCapabilities Create(
        uint maximumQueueEntries, byte timeoutHalfSeconds, bool controllerMemory) =>
        new((maximumQueueEntries - 1) | ContiguousBit | (ulong)timeoutHalfSeconds << 24 | NvmCommandSetBit
            | (controllerMemory ? ControllerMemoryBit : 0));
}

/// <summary>Register CC. NVM Express 1.4 section 3.1.5.</summary>
public readonly record struct ControllerConfiguration(uint Value)
{
    /// <summary>EN.</summary>
    public bool Enabled => (Value & 1) != 0;

    /// <summary>CSS: 0 is the NVM command set.</summary>
    public uint CommandSet => Value >> 4 & 7;

    /// <summary>MPS: log2 of the memory page.</summary>
    public int PageShift => 12 + (int)(Value >> 7 & 0xf);

    /// <summary>AMS: 0 is round robin.</summary>
    public uint Arbitration => Value >> 11 & 7;

    /// <summary>SHN: 1 asks for a normal shutdown, 2 for an abrupt one.</summary>
    public uint ShutdownNotification => Value >> 14 & 3;

    /// <summary>IOSQES: log2 of a submission entry's size.</summary>
    public uint SubmissionEntryShift => Value >> 16 & 0xf;

    /// <summary>IOCQES: log2 of a completion entry's size.</summary>
    public uint CompletionEntryShift => Value >> 20 & 0xf;

    /// <summary>Enabled, NVM command set, 4 KiB pages, round robin, entries of 64 and 16 bytes.</summary>
    public static ControllerConfiguration Usual => new(1 | 6u << 16 | 4u << 20);

    /// <summary>The same with SHN set to a normal shutdown.</summary>
    public ControllerConfiguration WithNormalShutdown() => new(Value & ~(3u << 14) | 1u << 14);
}

/// <summary>Register CSTS. NVM Express 1.4 section 3.1.6.</summary>
public readonly record struct ControllerStatus(uint Value)
{
    public const uint ReadyBit = 1;

    public const uint FatalBit = 2;

    /// <summary>SHST = 2: shutdown processing is complete.</summary>
    public const uint ShutdownComplete = 2u << 2;

    public const uint ShutdownMask = 3u << 2;

    /// <summary>RDY.</summary>
    public bool Ready => (Value & ReadyBit) != 0;

    /// <summary>CFS.</summary>
    public bool Fatal => (Value & FatalBit) != 0;
}

/// <summary>Register AQA. NVM Express 1.4 section 3.1.8.</summary>
public readonly record struct AdminQueueAttributes(uint Value)
{
    /// <summary>ASQS: entries, 1 to 4096.</summary>
    public uint SubmissionEntries => (Value & 0xfff) + 1;

    /// <summary>ACQS: entries, 1 to 4096.</summary>
    public uint CompletionEntries => (Value >> 16 & 0xfff) + 1;

    public static AdminQueueAttributes Create(uint submissionEntries, uint completionEntries) =>
        new((submissionEntries - 1) & 0xfff | ((completionEntries - 1) & 0xfff) << 16);
}
