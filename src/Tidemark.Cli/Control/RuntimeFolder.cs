using Tidemark.Machine.Description;

namespace Tidemark.Cli.Control;

/// <summary>
/// Where machines are found by name: a folder of the user's own with one control socket for each machine.
/// <c>$TIDEMARK_RUNTIME_DIR</c>, else <c>$XDG_RUNTIME_DIR/tidemark</c>, else <c>tidemark-USER</c> in the temporary
/// folder.
/// </summary>
internal static class RuntimeFolder
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    public static string Path
    {
        get
        {
            string? own = Environment.GetEnvironmentVariable("TIDEMARK_RUNTIME_DIR");
            if (!string.IsNullOrEmpty(own))
                return System.IO.Path.GetFullPath(own);
            string? session = Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR");
            return !string.IsNullOrEmpty(session)
                ? System.IO.Path.Combine(session, "tidemark")
                : System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"tidemark-{Environment.UserName}");
        }
    }

    /// <summary>Makes the folder, 0700, and refuses one that others can enter.</summary>
    /// <exception cref="CommandFailure">It can not be made or is not safe.</exception>
    public static string Ensure()
    {
        string path = Path;
        try
        {
            Directory.CreateDirectory(path, OwnerOnly);
            UnixFileMode mode = File.GetUnixFileMode(path);
            if ((mode & ~OwnerOnly) != 0)
            {
                throw new CommandFailure(
                    $"The runtime folder {path} can be entered by other users. Run `chmod 700 {path}`, or set TIDEMARK_RUNTIME_DIR.");
            }

            return path;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // No machine can be found or run without the folder.
            throw new CommandFailure($"The runtime folder {path} can not be used: {failure.Message} Set TIDEMARK_RUNTIME_DIR to a folder of yours.");
        }
    }

    /// <exception cref="CommandFailure">The name can not be a file name, or the path gets too long for a
    /// socket.</exception>
    public static string SocketOf(string machineName)
    {
        if (!MachineName.IsValid(machineName))
            throw new CommandFailure($"\"{machineName}\" is not a machine's name.", ExitCode.Usage);
        string path = System.IO.Path.Combine(Path, machineName + ".sock");
        if (System.Text.Encoding.UTF8.GetByteCount(path) > 107)
            throw new CommandFailure($"The socket path {path} is longer than the 107 bytes a socket may have. Set TIDEMARK_RUNTIME_DIR to a shorter folder.");
        return path;
    }

    /// <summary>Names that have a socket; whether somebody answers there is another question.</summary>
    public static IReadOnlyList<string> Names() =>
        Directory.Exists(Path)
            ? [.. Directory.EnumerateFiles(Path, "*.sock").Select(file => System.IO.Path.GetFileNameWithoutExtension(file)!).Order(StringComparer.Ordinal)]
            : [];
}
