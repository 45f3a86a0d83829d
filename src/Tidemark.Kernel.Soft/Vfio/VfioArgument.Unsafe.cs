using System.Runtime.InteropServices;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>uAPI structs in the bytes of an ioctl argument.</summary>
internal static class VfioArgument
{
    /// <summary>Reads the first bytes of a struct; the rest is 0. False (EFAULT): the argument is shorter.</summary>
    public static bool TryRead<T>(ReadOnlySpan<byte> argument, int byteLength, out T value)
        where T : unmanaged
    {
        value = default;
        if (argument.Length < byteLength)
            return false;
        // SAFETY: T is unmanaged, every bit pattern of the uAPI structs is valid, and the copy is bounded by both
        // spans.
        argument[..byteLength].CopyTo(MemoryMarshal.AsBytes(new Span<T>(ref value)));
        return true;
    }

    /// <summary>Writes the first bytes of a struct; the argument was found long enough when it was read.</summary>
    public static void Write<T>(Span<byte> argument, in T value, int byteLength)
        where T : unmanaged
    {
        T copy = value;
        // SAFETY: T is unmanaged; the slice is bounds-checked.
        MemoryMarshal.AsBytes(new Span<T>(ref copy))[..byteLength].CopyTo(argument);
    }

    /// <summary>Reads a struct from the caller's memory. False: EFAULT.</summary>
    public static bool TryReadUser<T>(IVfioHost kernel, ulong address, out T value)
        where T : unmanaged
    {
        value = default;
        // SAFETY: T is unmanaged and every bit pattern is valid; the span covers exactly the local.
        return kernel.TryReadUser(address, MemoryMarshal.AsBytes(new Span<T>(ref value)));
    }
}
