using System.Runtime.InteropServices;

namespace Tidemark.Kernel;

/// <summary>A file descriptor and the kernel that made it. Closing it is all it knows.</summary>
public sealed class KernelFd : SafeHandle
{
    private readonly bool _owned;

    /// <param name="owned">False for a descriptor that a caller handed in and will close itself.</param>
    public KernelFd(IKernel kernel, int fd, bool owned = true)
        : base(-1, ownsHandle: true)
    {
        Kernel = kernel;
        _owned = owned;
        SetHandle(fd);
    }

    public IKernel Kernel { get; }

    /// <summary>
    /// The number, for use in a call made while this object is alive; -1 once it is closed, because the number may be
    /// another file's by then.
    /// </summary>
    public int Number => IsClosed ? -1 : (int)handle;

    public override bool IsInvalid => handle < 0;

    protected override bool ReleaseHandle() => !_owned || Kernel.Close((int)handle).Succeeded;

    public override string ToString() => $"fd {Number}";
}
