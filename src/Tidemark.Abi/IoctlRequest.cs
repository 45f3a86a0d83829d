namespace Tidemark.Abi;

/// <summary>An ioctl request: the number the kernel dispatches on and the name its header gives it.</summary>
/// <param name="Value">The 32-bit request number, as passed to <c>ioctl(2)</c>.</param>
/// <param name="Name">The C macro's name, for traces and messages.</param>
public readonly record struct IoctlRequest(uint Value, string Name)
{
    public override string ToString() => Name;
}
