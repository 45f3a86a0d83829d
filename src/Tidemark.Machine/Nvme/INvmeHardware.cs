using Tidemark.Kernel;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// An NVMe function as its driver sees it: BAR0, configuration space and interrupts. A refusal is a
/// <see cref="KernelException"/> from the implementation.
/// </summary>
public interface INvmeHardware
{
    /// <summary>Reads 32 bits of BAR0. The offset is aligned.</summary>
    uint ReadRegister32(ulong offset);

    /// <summary>Reads 64 bits of BAR0. The offset is aligned to 8.</summary>
    ulong ReadRegister64(ulong offset);

    /// <summary>
    /// Writes 32 bits of BAR0; a doorbell. Earlier writes of this thread to guest memory are visible before it.
    /// </summary>
    void WriteRegister32(ulong offset, uint value);

    /// <summary>Writes 64 bits of BAR0.</summary>
    void WriteRegister64(ulong offset, ulong value);

    /// <summary>
    /// Copies bytes into the BAR in which the controller memory buffer lies: through a mapping where the region offers
    /// one, else by a call.
    /// </summary>
    void WriteControllerMemory(uint bar, ulong offset, ReadOnlySpan<byte> bytes);

    /// <summary>Reads PCI configuration space.</summary>
    void ReadConfig(ulong offset, Span<byte> into);

    /// <summary>Writes PCI configuration space.</summary>
    void WriteConfig(ulong offset, ReadOnlySpan<byte> from);

    /// <summary>MSI-X vector i signals the i-th eventfd from now on.</summary>
    void EnableInterrupts(IReadOnlyList<KernelFd> eventfds);

    /// <summary>No vector signals any more. Nothing happens when none did.</summary>
    void DisableInterrupts();
}
