using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>
/// What a system call answered: a value, or an errno. The boundary never throws and never retries; what EINTR or EAGAIN
/// mean is the caller's to say.
/// </summary>
/// <param name="Value">The call's result (a descriptor, a count, an address); -1 when it failed.</param>
public readonly record struct SyscallResult(long Value, Errno Errno)
{
    public bool Succeeded => Errno == Errno.Success;

    public static SyscallResult Ok(long value = 0) => new(value, Errno.Success);

    public static SyscallResult Fail(Errno errno) => new(-1, errno);

    /// <exception cref="KernelException">The call failed.</exception>
    public SyscallResult ThrowIfFailed(string operation) =>
        Succeeded ? this : throw new KernelException(operation, Errno);

    public override string ToString() => Succeeded ? $"{Value}" : $"-1 {Errno}";
}
