namespace Tidemark.Kernel.Recording;

/// <summary>Bytes of the caller's memory that are not what they were.</summary>
/// <param name="Address">Where, in the process that was recorded; a multiple of 8.</param>
/// <param name="Bytes">What is there now; whole words of 8 bytes.</param>
public sealed record MemoryChange(ulong Address, byte[] Bytes);

/// <summary>One system call together with the memory around it.</summary>
/// <param name="Stored">What the program had stored since the call before.</param>
/// <param name="Written">What the kernel had written when the call returned.</param>
public sealed record RecordedStep(
    IReadOnlyList<MemoryChange> Stored, RecordedCall Call, IReadOnlyList<MemoryChange> Written);
