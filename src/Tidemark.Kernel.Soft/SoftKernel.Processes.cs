namespace Tidemark.Kernel.Soft;

/// <summary>In whose name calls are made.</summary>
public sealed partial class SoftKernel
{
    private readonly ThreadLocal<SoftProcess?> _entered = new();

    /// <summary>The process that makes the present call.</summary>
    internal SoftProcess Caller => _entered.Value ?? Process;

    /// <summary>The process of everybody who did not enter another one.</summary>
    internal SoftProcess Process { get; }

    /// <summary>Calls of this thread are another process's until the answer is disposed.</summary>
    internal ProcessScope Enter(SoftProcess process)
    {
        SoftProcess? before = _entered.Value;
        _entered.Value = process;
        return new ProcessScope(this, before);
    }

    internal readonly struct ProcessScope(SoftKernel kernel, SoftProcess? before) : IDisposable
    {
        public void Dispose() => kernel._entered.Value = before;
    }
}
