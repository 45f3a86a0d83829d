using Tidemark.Kernel;
using Tidemark.Kernel.Linux;

namespace Tidemark.Bench;

/// <summary>The memory that nobody has, as the next one to touch it finds it.</summary>
internal static class FreeMemory
{
    /// <summary>
    /// Takes so many bytes and gives them back. On a virtual machine free memory goes back to the host after a while, and
    /// whoever touches it next pays for getting it again, several times what the touch itself costs: that must not be the
    /// one whose turn it happens to be. Before memory is made that is read later, too: what the host then gives in single
    /// pages is read at half the speed for as long as it is there.
    /// </summary>
    /// <param name="bytes">0: nothing is done.</param>
    internal static void Warm(ulong bytes)
    {
        if (bytes == 0)
            return;
        var kernel = new LinuxKernel();
        using Mapping mapping = Mapping.CreateAnonymous(kernel, bytes);
        kernel.Madvise(mapping.Address.Value, bytes, MemoryAdvice.PopulateWrite).ThrowIfFailed($"Touching {bytes} bytes of free memory");
    }
}
