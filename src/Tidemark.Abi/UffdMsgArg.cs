using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>The event's own part of a <see cref="UffdMsg"/> (C: the union <c>arg</c>, linux/userfaultfd.h).</summary>
/// <remarks>Explicit because it is a union: the event says which fields mean something.</remarks>
[Uapi("uffd_msg_arg", Since = "4.3")]
[StructLayout(LayoutKind.Explicit, Size = 24)]
public struct UffdMsgArg
{
    [FieldOffset(0)]
    public UffdPagefaultFlags PagefaultFlags;

    [FieldOffset(8)]
    public ulong PagefaultAddress;

    /// <summary>The thread that faulted, with the feature ThreadId.</summary>
    [FieldOffset(16)]
    public uint PagefaultFeatPtid;

    [FieldOffset(0)]
    public uint ForkUfd;

    [FieldOffset(0)]
    public ulong RemapFrom;

    [FieldOffset(8)]
    public ulong RemapTo;

    [FieldOffset(16)]
    public ulong RemapLen;

    /// <summary>Also of the event Unmap.</summary>
    [FieldOffset(0)]
    public ulong RemoveStart;

    [FieldOffset(8)]
    public ulong RemoveEnd;
}
