namespace Tidemark.Machine.Workload;

/// <summary>
/// A small pseudo-random sequence (SplitMix64) whose whole state is one number, so that it can move with the machine.
/// </summary>
public struct SeededSequence(ulong state)
{
    public ulong State { get; private set; } = state;

    public ulong Next()
    {
        unchecked
        {
            State += 0x9E3779B97F4A7C15;
            ulong z = State;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
            return z ^ (z >> 31);
        }
    }

    /// <summary>A number below <paramref name="bound"/>, which is not 0.</summary>
    public ulong NextBelow(ulong bound) => Math.BigMul(Next(), bound, out _);
}
