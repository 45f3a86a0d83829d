namespace Tidemark.Kernel;

/// <summary>
/// Which kernel answered. Code above the boundary must not branch on it; every report, trace and benchmark must say it.
/// </summary>
/// <param name="Name"><c>soft</c> or <c>linux</c>.</param>
/// <param name="Version">The release, for instance <c>6.18.44</c>; for the soft kernel, the Linux release whose
/// interface it follows.</param>
public sealed record KernelIdentity(string Name, string Version)
{
    public override string ToString() => Name == "soft" ? "soft" : $"{Name} {Version}";
}
