namespace Tidemark.Nvme;

/// <summary>Controller registers: offsets in bytes into BAR0. NVM Express 1.4 section 3.1.</summary>
public static class NvmeRegister
{
    /// <summary>CAP, 64 bits, read only. Section 3.1.1.</summary>
    public const ulong Capabilities = 0x00;

    /// <summary>VS. Section 3.1.2.</summary>
    public const ulong Version = 0x08;

    /// <summary>INTMS. Not for use with MSI-X. Section 3.1.3.</summary>
    public const ulong InterruptMaskSet = 0x0c;

    /// <summary>INTMC. Section 3.1.4.</summary>
    public const ulong InterruptMaskClear = 0x10;

    /// <summary>CC. Section 3.1.5.</summary>
    public const ulong Configuration = 0x14;

    /// <summary>CSTS. Section 3.1.6.</summary>
    public const ulong Status = 0x1c;

    /// <summary>NSSR. Section 3.1.7.</summary>
    public const ulong SubsystemReset = 0x20;

    /// <summary>AQA: sizes of the admin queues. Section 3.1.8.</summary>
    public const ulong AdminQueueAttributes = 0x24;

    /// <summary>ASQ, 64 bits. Section 3.1.9.</summary>
    public const ulong AdminSubmissionQueue = 0x28;

    /// <summary>ACQ, 64 bits. Section 3.1.10.</summary>
    public const ulong AdminCompletionQueue = 0x30;

    /// <summary>CMBLOC; 0 until CMBMSC.CRE is set. Section 3.1.11.</summary>
    public const ulong ControllerMemoryLocation = 0x38;

    /// <summary>CMBSZ; 0 until CMBMSC.CRE is set. Section 3.1.12.</summary>
    public const ulong ControllerMemorySize = 0x3c;

    /// <summary>CMBMSC, 64 bits. Section 3.1.16.</summary>
    public const ulong ControllerMemorySpace = 0x50;

    /// <summary>CMBSTS. Section 3.1.17.</summary>
    public const ulong ControllerMemoryStatus = 0x58;

    /// <summary>End of the registers this library knows.</summary>
    public const ulong End = 0x60;

    /// <summary>First doorbell. Sections 3.1.24 and 3.1.25.</summary>
    public const ulong Doorbells = 0x1000;

    /// <summary>VS of a controller of version 1.4.0.</summary>
    public const uint Version14 = 0x0001_0400;

    /// <summary>SQyTDBL.</summary>
    /// <param name="strideBytes">From <see cref="ControllerCapabilities.DoorbellStrideBytes"/>.</param>
    public static ulong SubmissionDoorbell(ushort queue, uint strideBytes) => Doorbells + 2UL * queue * strideBytes;

    /// <summary>CQyHDBL.</summary>
    public static ulong CompletionDoorbell(ushort queue, uint strideBytes) =>
        Doorbells + (2UL * queue + 1) * strideBytes;
}
