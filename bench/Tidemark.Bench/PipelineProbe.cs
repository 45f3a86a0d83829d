using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Tidemark.Bench;

/// <summary>bench/probe/pipeline.c, compiled for this very processor and loaded into this process.</summary>
internal sealed unsafe class PipelineProbe : IDisposable
{
    private readonly string _folder;
    private readonly nint _library;
    private readonly delegate* unmanaged<ulong*, ulong*, nuint, void> _or;
    private readonly delegate* unmanaged<ulong*, nuint, ulong> _scan;
    private readonly delegate* unmanaged<ulong*, nuint, ulong> _count;
    private readonly delegate* unmanaged<ulong*, nuint, ulong*, ulong> _runs;
    private readonly delegate* unmanaged<ulong*, ulong*, ulong*, ulong*, nuint, ulong*, ulong*, ulong> _pass;

    /// <exception cref="InvalidOperationException">There is no gcc, or it refused the probe.</exception>
    internal PipelineProbe()
    {
        _folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        try
        {
            string library = Path.Combine(_folder, "pipeline.so");
            Compile(FindSource(), library);
            _library = NativeLibrary.Load(library);
            _or = (delegate* unmanaged<ulong*, ulong*, nuint, void>)NativeLibrary.GetExport(_library, "probe_or");
            _scan = (delegate* unmanaged<ulong*, nuint, ulong>)NativeLibrary.GetExport(_library, "probe_scan");
            _count = (delegate* unmanaged<ulong*, nuint, ulong>)NativeLibrary.GetExport(_library, "probe_count");
            _runs = (delegate* unmanaged<ulong*, nuint, ulong*, ulong>)NativeLibrary.GetExport(_library, "probe_runs");
            _pass = (delegate* unmanaged<ulong*, ulong*, ulong*, ulong*, nuint, ulong*, ulong*, ulong>)
                NativeLibrary.GetExport(_library, "probe_pass");
        }
        catch
        {
            // Nothing of it is left on disk; a loaded library stays until the process ends, which it now does.
            Directory.Delete(_folder, recursive: true);
            throw;
        }
    }

    internal void Or(ulong* target, ulong* source, int words) => _or(target, source, (nuint)words);

    internal ulong Scan(ulong* source, int words) => _scan(source, (nuint)words);

    internal ulong Count(ulong* source, int words) => _count(source, (nuint)words);

    internal (ulong Runs, ulong Digest) Runs(ulong* source, int words)
    {
        ulong digest;
        ulong runs = _runs(source, (nuint)words, &digest);
        return (runs, digest);
    }

    internal (ulong Runs, ulong Digest) Pass(ulong* union, ulong* gathered, ulong* first, ulong* second, int words)
    {
        ulong total, digest;
        ulong runs = _pass(union, gathered, first, second, (nuint)words, &total, &digest);
        return (runs, digest);
    }

    public void Dispose()
    {
        NativeLibrary.Free(_library);
        Directory.Delete(_folder, recursive: true);
    }

    private static string FindSource()
    {
        for (string? folder = AppContext.BaseDirectory; folder is not null; folder = Path.GetDirectoryName(folder))
        {
            string source = Path.Combine(folder, "bench", "probe", "pipeline.c");
            if (File.Exists(source))
                return source;
        }

        throw new InvalidOperationException("bench/probe/pipeline.c is not above the bench's own folder.");
    }

    private static void Compile(string source, string library)
    {
        using Process compiler = Process.Start("gcc", ["-O3", "-march=native", "-shared", "-fPIC", "-o", library, source]);
        compiler.WaitForExit();
        if (compiler.ExitCode != 0)
            throw new InvalidOperationException($"gcc ended with {compiler.ExitCode}; the probe is not there.");
    }
}
