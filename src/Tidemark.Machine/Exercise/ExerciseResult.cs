namespace Tidemark.Machine.Exercise;

/// <summary>How an exercise ended.</summary>
public enum ExerciseOutcome
{
    /// <summary>Done, and what must hold held.</summary>
    Shown,

    /// <summary>This host can not show it; nothing is wrong.</summary>
    NotShown,

    /// <summary>A write was not recorded, or what must hold did not.</summary>
    Failed,
}

/// <summary>One use of dirty tracking, tried on a device.</summary>
/// <param name="Name">In kebab case, stable.</param>
/// <param name="Evidence">What was done and what was seen, in one sentence.</param>
public sealed record ExerciseResult(string Name, ExerciseOutcome Outcome, string Evidence);
