using System.Diagnostics.CodeAnalysis;

namespace Tidemark.Memory;

/// <summary>A rule that correctness rests on was broken: a defect of ours, never of input. Always checked.</summary>
public sealed class InvariantException(string message) : Exception(message);

/// <summary>Checks that stay on in production.</summary>
public static class Invariant
{
    /// <exception cref="InvariantException">The condition does not hold.</exception>
    public static void Require([DoesNotReturnIf(false)] bool condition, string message)
    {
        if (!condition)
            throw new InvariantException(message);
    }
}
