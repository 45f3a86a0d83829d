namespace Tidemark.Nvme;

/// <summary>
/// An NVMe function in PCI configuration space. NVM Express 1.4 section 2; PCI Local Bus Specification 3.0 chapter 6.
/// </summary>
public static class NvmePci
{
    /// <summary>
    /// The soft controller's vendor. Ours by choice, not by assignment of the PCI-SIG: no driver binds by it, drivers
    /// for
    /// NVMe bind by class.
    /// </summary>
    public const ushort SoftVendorId = 0x1d1d;

    public const ushort SoftDeviceId = 0x0001;

    /// <summary>Mass storage, non-volatile memory, NVM Express.</summary>
    public const uint ClassCode = 0x010802;

    public const int VendorOffset = 0x00;

    public const int CommandOffset = 0x04;

    /// <summary>Command bit 1: BARs answer.</summary>
    public const ushort CommandMemory = 1 << 1;

    /// <summary>Command bit 2: the function may start DMA and message interrupts.</summary>
    public const ushort CommandBusMaster = 1 << 2;

    /// <summary>
    /// What a host's firmware leaves: I/O space, memory, and the report of system errors (bits 0, 1 and 8).
    /// </summary>
    public const ushort CommandInitial = 0x103;

    /// <summary>Command bit 10.</summary>
    public const ushort CommandInterruptDisable = 1 << 10;

    public const int StatusOffset = 0x06;

    /// <summary>Status bit 4: there is a capability list.</summary>
    public const ushort StatusCapabilities = 1 << 4;

    public const int RevisionOffset = 0x08;

    public const int CacheLineOffset = 0x0c;

    public const int Bar0Offset = 0x10;

    /// <summary>Low bits of a 64-bit memory BAR that is not prefetchable.</summary>
    public const uint Bar64Bit = 0x4;

    public const int SubsystemOffset = 0x2c;

    public const int CapabilitiesOffset = 0x34;

    public const int InterruptLineOffset = 0x3c;

    public const int InterruptPinOffset = 0x3d;

    public const byte InterruptPinA = 1;
}

/// <summary>The MSI-X capability and its table. PCI Local Bus Specification 3.0 section 6.8.2.</summary>
public static class MsixCapability
{
    public const byte Id = 0x11;

    public const int ByteLength = 12;

    /// <summary>Message control: 16 bits at offset 2 of the capability.</summary>
    public const int ControlOffset = 2;

    public const ushort ControlEnable = 1 << 15;

    public const ushort ControlFunctionMask = 1 << 14;

    /// <summary>Table offset and BAR: 32 bits at offset 4.</summary>
    public const int TableOffset = 4;

    /// <summary>Pending bit array offset and BAR: 32 bits at offset 8.</summary>
    public const int PendingOffset = 8;

    /// <summary>A table entry: message address, upper address, data, vector control.</summary>
    public const int EntryByteLength = 16;

    /// <summary>Vector control lies at this offset of an entry; bit 0 masks.</summary>
    public const int EntryControlOffset = 12;
}

/// <summary>The PCI Express capability. PCI Express Base Specification 4.0 section 7.5.3.</summary>
public static class ExpressCapability
{
    public const byte Id = 0x10;

    /// <summary>Capabilities register: 16 bits at offset 2.</summary>
    public const int FlagsOffset = 2;

    /// <summary>Version 2; an endpoint integrated in the root complex, which has no link.</summary>
    public const ushort IntegratedEndpoint = 9 << 4 | 2;

    /// <summary>Device capabilities: 32 bits at offset 4.</summary>
    public const int CapabilitiesOffset = 4;

    /// <summary>Reports errors by their role, as every function since version 1.1 must say.</summary>
    public const uint RoleBasedErrors = 1u << 15;

    /// <summary>The function can be reset by <see cref="ControlReset"/>.</summary>
    public const uint FunctionReset = 1u << 28;

    /// <summary>Device control: 16 bits at offset 8.</summary>
    public const int ControlOffset = 8;

    /// <summary>Error reporting, relaxed ordering, no-snoop, and the size of reads; payloads are 128 bytes.</summary>
    public const ushort ControlWritable = 0x781f;

    /// <summary>Starts a function-level reset; reads as 0.</summary>
    public const ushort ControlReset = 1 << 15;
}
