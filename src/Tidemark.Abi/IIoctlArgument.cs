namespace Tidemark.Abi;

/// <summary>
/// An ioctl argument that knows its request: number, size and trace name all follow from the type, so that they can
/// not be mismatched at a call.
/// </summary>
public interface IIoctlArgument<TSelf>
    where TSelf : unmanaged, IIoctlArgument<TSelf>
{
    static abstract IoctlRequest Request { get; }
}
