namespace Tidemark.Cli;

/// <summary>Exit codes, the same for every command.</summary>
internal static class ExitCode
{
    /// <summary>Done, or ready.</summary>
    public const int Done = 0;

    /// <summary>Failed or not ready; the source, if there was one, runs.</summary>
    public const int Failed = 1;

    /// <summary>Could not tell.</summary>
    public const int Inconclusive = 2;

    /// <summary>Not supported here.</summary>
    public const int NotSupported = 3;

    /// <summary>Commit was sent and not acknowledged: an operator must look at both sides.</summary>
    public const int StateUnknown = 4;

    /// <summary>A planted fault was caught.</summary>
    public const int PlantCaught = 5;

    /// <summary>The command line is wrong.</summary>
    public const int Usage = 64;
}
