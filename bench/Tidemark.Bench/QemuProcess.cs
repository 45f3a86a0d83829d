using System.Diagnostics;

namespace Tidemark.Bench;

/// <summary>A QEMU with its control socket. It ends with this object.</summary>
internal sealed class QemuProcess : IDisposable
{
    private readonly Process _process;

    internal QemuProcess(string program, string socket, params IEnumerable<string> arguments)
    {
        var start = new ProcessStartInfo(program) { RedirectStandardOutput = true, UseShellExecute = false };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        start.ArgumentList.Add("-qmp");
        start.ArgumentList.Add($"unix:{socket},server=on,wait=off");
        _process = Process.Start(start) ?? throw new InvalidOperationException("QEMU was not started.");
        Qmp = new QmpClient(socket, () => !_process.HasExited);
    }

    internal QmpClient Qmp { get; }

    internal double CpuSeconds => ChildProgram.CpuSecondsOf(_process.Id) ?? 0;

    public void Dispose()
    {
        Qmp.Dispose();
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
