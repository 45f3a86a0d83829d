namespace Tidemark.Migration;

/// <summary>What the passes so far say about the ones to come.</summary>
public enum ConvergenceVerdict
{
    /// <summary>Too few passes, or the machine was throttled only now.</summary>
    TooEarly,

    /// <summary>The rest fits the limit, or shrinks towards it.</summary>
    Converging,

    /// <summary>It has not shrunk for some passes; nothing proves that it will not.</summary>
    Stalled,

    /// <summary>
    /// No number of passes brings it below the limit, as long as the machine writes as it does: by two passes in a row
    /// during which it wrote steadily, and even the most hopeful reading of what was seen stays above.
    /// </summary>
    CanNotConverge,
}
