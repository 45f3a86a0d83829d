using System.Globalization;

namespace Tidemark.Nvme;

/// <summary>
/// The status of a completion: status code type in bits 10:8, status code in bits 7:0; bit 14 is DNR (do not retry).
/// Open: any value survives. NVM Express 1.4 section 4.6.1.
/// </summary>
public readonly record struct NvmeStatus(ushort Value)
{
    private const ushort DoNotRetryBit = 1 << 14;

    public static NvmeStatus Success => new(0x000);
    public static NvmeStatus InvalidOpcode => new(0x001 | DoNotRetryBit);
    public static NvmeStatus InvalidField => new(0x002 | DoNotRetryBit);
    public static NvmeStatus DataTransferError => new(0x004);
    public static NvmeStatus InternalError => new(0x006);
    public static NvmeStatus AbortRequested => new(0x007);
    public static NvmeStatus AbortedByQueueDeletion => new(0x008);
    public static NvmeStatus InvalidNamespace => new(0x00b | DoNotRetryBit);
    public static NvmeStatus CommandSequenceError => new(0x00c);
    public static NvmeStatus PrpOffsetInvalid => new(0x013 | DoNotRetryBit);
    public static NvmeStatus NamespaceWriteProtected => new(0x020 | DoNotRetryBit);
    public static NvmeStatus LbaOutOfRange => new(0x080 | DoNotRetryBit);
    public static NvmeStatus CompletionQueueInvalid => new(0x100 | DoNotRetryBit);
    public static NvmeStatus InvalidQueueIdentifier => new(0x101 | DoNotRetryBit);
    public static NvmeStatus InvalidQueueSize => new(0x102 | DoNotRetryBit);
    public static NvmeStatus AsynchronousEventLimitExceeded => new(0x105 | DoNotRetryBit);
    public static NvmeStatus InvalidInterruptVector => new(0x108 | DoNotRetryBit);
    public static NvmeStatus InvalidLogPage => new(0x109 | DoNotRetryBit);
    public static NvmeStatus InvalidQueueDeletion => new(0x10c | DoNotRetryBit);
    public static NvmeStatus FeatureNotSaveable => new(0x10d | DoNotRetryBit);
    public static NvmeStatus FeatureNotChangeable => new(0x10e | DoNotRetryBit);
    public static NvmeStatus WriteFault => new(0x280);
    public static NvmeStatus UnrecoveredReadError => new(0x281);

    /// <summary>Type and code without the flags.</summary>
    public ushort Code => (ushort)(Value & 0x7ff);

    public bool Succeeded => Code == 0;

    public bool DoNotRetry => (Value & DoNotRetryBit) != 0;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"0x{Code:x3}");
}
