using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace Tidemark.Bench;

/// <summary>A QEMU under TCG whose memory is a shared file, with its control socket. It ends with this object.</summary>
internal sealed class QemuProcess : IDisposable
{
    private const int FillStep = 1 << 20;

    private readonly Process _process;

    /// <param name="folder">Where its control socket is made, by its name.</param>
    /// <param name="touched">Its memory is touched before it starts.</param>
    /// <param name="more">Further words of its command line.</param>
    internal QemuProcess(
        string program, string folder, string name, string memory, ulong memoryBytes, bool touched, params IEnumerable<string> more)
    {
        string size = string.Create(CultureInfo.InvariantCulture, $"{memoryBytes >> 20}M");
        string socket = Path.Combine(folder, name);
        File.Delete(socket);
        var start = new ProcessStartInfo(program) { RedirectStandardOutput = true, UseShellExecute = false };
        string[] arguments =
        [
            "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-m", size,
            "-machine", "q35,memory-backend=ram",
            "-object", $"memory-backend-file,id=ram,size={size},mem-path={memory},share=on,prealloc={(touched ? "on" : "off")}",
            "-qmp", $"unix:{socket},server=on,wait=off",
            .. more,
        ];
        Array.ForEach(arguments, start.ArgumentList.Add);
        _process = Process.Start(start) ?? throw new InvalidOperationException("QEMU was not started.");
        Qmp = new QmpClient(socket, () => !_process.HasExited);
    }

    internal QmpClient Qmp { get; }

    internal double CpuSeconds => ChildProgram.CpuSecondsOf(_process.Id) ?? 0;

    /// <summary>Makes a machine's memory: incompressible from its beginning, the rest untouched.</summary>
    internal static FileStream MakeMemory(string path, ulong memoryBytes, ulong filled)
    {
        FileStream file = File.Create(path);
        file.SetLength((long)memoryBytes);
        var random = new Random(1);
        byte[] piece = new byte[FillStep];
        for (ulong at = 0; at < filled / FillStep * FillStep; at += FillStep)
        {
            random.NextBytes(piece);
            file.Write(piece);
        }

        return file;
    }

    internal void Enable(params IEnumerable<string> capabilities) => Qmp.Execute("migrate-set-capabilities", new JsonObject
    {
        ["capabilities"] = new JsonArray([.. capabilities.Select(name => new JsonObject { ["capability"] = name, ["state"] = true })]),
    });

    public void Dispose()
    {
        Qmp.Dispose();
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
