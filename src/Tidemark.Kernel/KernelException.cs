using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>
/// An operation that the kernel refused. The message names operation, object and range, and ends with the errno.
/// </summary>
public class KernelException(string operation, Errno errno, string? remedy = null, Exception? inner = null)
    : Exception(Describe(operation, errno, remedy), inner)
{
    /// <summary>What was tried, as a sentence's beginning: <c>Mapping 0x1000-0x1fff into IOAS 3</c>.</summary>
    public string Operation { get; } = operation;

    public Errno Errno { get; } = errno;

    /// <summary>What a user can do about it, or null.</summary>
    public string? Remedy { get; } = remedy;

    private static string Describe(string operation, Errno errno, string? remedy) =>
        remedy is null ? $"{operation} failed: {errno}." : $"{operation} failed: {errno}. {remedy}";
}
