namespace Tidemark.Cli;

/// <summary>
/// A command can not go on: the message is all that the user sees, so it has cause, evidence and remedy.
/// </summary>
internal sealed class CommandFailure(string message, int exitCode = ExitCode.Failed) : Exception(message)
{
    public int ExitCode { get; } = exitCode;
}
