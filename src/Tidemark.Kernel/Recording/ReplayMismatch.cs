namespace Tidemark.Kernel.Recording;

/// <summary>The first place at which a kernel answered something else than the recorded one.</summary>
/// <param name="Step">Which call of the case, from 1.</param>
/// <param name="Recorded">The call as it was recorded, spelled out.</param>
/// <param name="Answered">What came back here: the result, a field, or bytes of memory.</param>
public sealed record ReplayMismatch(string Case, int Step, string Recorded, string Answered)
{
    public override string ToString() => $"{Case}, call {Step}: recorded {Recorded}; answered {Answered}";
}
