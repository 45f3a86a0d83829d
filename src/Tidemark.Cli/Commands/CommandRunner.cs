using System.CommandLine;
using System.Runtime.InteropServices;
using Tidemark.Cli.Output;
using Tidemark.Kernel;

namespace Tidemark.Cli.Commands;

/// <summary>
/// Runs a command's body: applies the global options, turns the first Ctrl-C or SIGTERM into a cancellation, and every
/// failure into one clear message and an exit code. No stack trace reaches a user; --verbose names the type of an
/// unexpected failure.
/// </summary>
internal sealed class CommandRunner(GlobalOptions options)
{
    public GlobalOptions Options => options;

    public void Attach(Command command, Func<ParseResult, Terminal, CancellationToken, int> body) =>
        command.SetAction(parsed => Run(parsed, body));

    private int Run(ParseResult parsed, Func<ParseResult, Terminal, CancellationToken, int> body)
    {
        using var terminal = new Terminal();
        using var cancellation = new CancellationTokenSource();
        void Cancel(PosixSignalContext context)
        {
            // The second one ends the process as it is: a user must be able to leave whatever hangs.
            context.Cancel = !cancellation.IsCancellationRequested;
            cancellation.Cancel();
        }

        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
        try
        {
            options.Apply(parsed, terminal);
            return body(parsed, terminal, cancellation.Token);
        }
        catch (CommandFailure failure)
        {
            terminal.Error(failure.Message);
            return failure.ExitCode;
        }
        catch (KernelException failure)
        {
            terminal.Error(failure.Message);
            return failure.Errno is Abi.Errno.ENOTTY or Abi.Errno.EOPNOTSUPP ? ExitCode.NotSupported : ExitCode.Failed;
        }
        catch (OperationCanceledException)
        {
            terminal.Error("Interrupted.");
            return ExitCode.Failed;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or OutOfMemoryException)
        {
            // The command's own objects were disposed while the exception passed.
            terminal.Error(failure.Message);
            return ExitCode.Failed;
        }
        catch (Exception failure)
        {
            // A defect of ours. The message is kept short for the user; --verbose has what a report needs.
            terminal.Error($"This should not happen: {failure.Message} Please report it with the output of --verbose.");
            terminal.Detail(failure.ToString());
            return ExitCode.Failed;
        }
        finally
        {
            terminal.EndProgress();
        }
    }
}
