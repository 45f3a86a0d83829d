using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.TestDomain;

/// <summary>
/// Marks leaves dirty as the IOMMU of a writing device would. The memory itself stays as it is: a test device does no
/// DMA.
/// </summary>
internal sealed class TestWriter : IDeviceWriter
{
    private readonly CaseRun _run;
    private readonly uint _hwpt;
    private readonly Mapping _bitmap;

    public TestWriter(CaseRun run, uint hwpt)
    {
        _run = run;
        _hwpt = hwpt;
        _bitmap = run.CreateMemory(1);
        _bitmap.Words(1)[0] = 1;
    }

    /// <summary>Tracking is on. While it is off no hardware marks anything, and nothing can be marked.</summary>
    public bool Tracks { get; set; }

    public void Write(ulong iova)
    {
        if (!Tracks)
            return;
        _run.Answers(
            _run.TestDomain.SetDirty(_hwpt, iova, CaseRun.Page, CaseRun.Page, _bitmap.Address.Value, out _),
            Errno.Success, "marking a leaf dirty");
    }
}
