namespace Tidemark.Nvme;

/// <summary>Register CMBLOC. NVM Express 1.4 section 3.1.11.</summary>
public readonly record struct ControllerMemoryLocation(uint Value)
{
    /// <summary>BIR: which BAR.</summary>
    public uint Bar => Value & 7;

    /// <summary>OFST, in units of CMBSZ.SZU.</summary>
    public uint OffsetUnits => Value >> 12;

    public static ControllerMemoryLocation Create(uint bar, uint offsetUnits) => new(bar | offsetUnits << 12);
}

/// <summary>Register CMBSZ. NVM Express 1.4 section 3.1.12.</summary>
public readonly record struct ControllerMemorySize(uint Value)
{
    /// <summary>SQS: submission queues may lie there.</summary>
    public bool AllowsSubmissionQueues => (Value & 1) != 0;

    /// <summary>SZU: 4 KiB, 64 KiB, 1 MiB, ... 64 GiB; 0 for a value that the specification reserves.</summary>
    public ulong UnitBytes => (Value >> 8 & 0xf) <= 6 ? 4096UL << (int)(4 * (Value >> 8 & 0xf)) : 0;

    /// <summary>SZ times SZU.</summary>
    public ulong ByteLength => (Value >> 12) * UnitBytes;

    /// <summary>Submission queues only, in units of 4 KiB.</summary>
    public static ControllerMemorySize CreateForSubmissionQueues(uint pages) => new(1 | pages << 12);
}

/// <summary>Register CMBMSC. NVM Express 1.4 section 3.1.16.</summary>
public readonly record struct ControllerMemorySpace(ulong Value)
{
    /// <summary>CRE: CMBLOC and CMBSZ tell.</summary>
    public bool RegistersEnabled => (Value & 1) != 0;

    /// <summary>CMSE: addresses from <see cref="Address"/> on mean the buffer.</summary>
    public bool SpaceEnabled => (Value & 2) != 0;

    /// <summary>CBA: where the buffer lies in the controller's address space.</summary>
    public ulong Address => Value & ~0xfffUL;

    public static ControllerMemorySpace Create(ulong address) => new(address & ~0xfffUL | 3);

    /// <summary>Only CRE, to learn how large the buffer is.</summary>
    public static ControllerMemorySpace RegistersOnly => new(1);
}
