using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Snapshot;

/// <summary>A machine that a snapshot fills: differences are to the snapshot, not to a source.</summary>
public sealed class RestoredMachine(GuestMachine machine) : IDestinationMachine
{
    public GuestMemory Memory => machine.Memory;

    public IReadOnlyList<IMigratable> Parts => machine.Parts;

    public IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> sourceDescription) =>
        machine.FindObstacles(sourceDescription, "in the snapshot");

    public MemoryBeforeFilling BeginFilling() => machine.BeginFilling();

    public bool TryPut(PageRun pages, ReadOnlySpan<byte> content) => machine.TryPut(pages, content);

    public void AcquireDisks() => machine.AcquireDisks();

    public void Start() => machine.Start();
}
