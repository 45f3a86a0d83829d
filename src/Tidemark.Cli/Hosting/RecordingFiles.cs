using Tidemark.Kernel.Recording;

namespace Tidemark.Cli.Hosting;

/// <summary>Recordings on disk: one text file for each area of cases, in a folder that has the profile's name.</summary>
internal static class RecordingFiles
{
    private const string Ending = ".txt";

    /// <summary>The profile whose recordings a folder takes.</summary>
    public static string ProfileOf(string folder) => Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)));

    /// <exception cref="CommandFailure">A file can not be written.</exception>
    public static void Write(string folder, IEnumerable<(string Area, CallRecording Recording)> recordings)
    {
        try
        {
            Directory.CreateDirectory(folder);
            foreach ((string area, CallRecording recording) in recordings)
                File.WriteAllText(Path.Combine(folder, area + Ending), recording.ToText());
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // The user asked for recordings and would not get them.
            throw new CommandFailure($"The recordings can not be written to {folder}: {failure.Message}");
        }
    }

    /// <summary>A file, or every recording below a folder, in order of their paths.</summary>
    /// <exception cref="CommandFailure">There is none, or one can not be read or is malformed.</exception>
    public static IReadOnlyList<(string Path, CallRecording Recording)> Read(string path)
    {
        try
        {
            List<string> files = Directory.Exists(path)
                ? [.. Directory.EnumerateFiles(path, $"*{Ending}", SearchOption.AllDirectories).Order(StringComparer.Ordinal)]
                : [path];
            if (files.Count == 0)
                throw new CommandFailure($"There is no recording (*{Ending}) in {path}.", ExitCode.Usage);
            return [.. files.Select(file => (file, ReadOne(file)))];
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // The path is what the user named.
            throw new CommandFailure($"Reading {path} failed: {failure.Message}", ExitCode.Usage);
        }
    }

    private static CallRecording ReadOne(string file)
    {
        try
        {
            if (new FileInfo(file).Length > CallRecording.LongestFile)
                throw new CommandFailure($"{file} is longer than {CallRecording.LongestFile} bytes; no recording is.", ExitCode.Usage);
            return CallRecording.Parse(File.ReadAllText(file));
        }
        catch (FormatException failure)
        {
            // Nothing was replayed yet.
            throw new CommandFailure($"{file} can not be replayed. {failure.Message}", ExitCode.Usage);
        }
    }
}
