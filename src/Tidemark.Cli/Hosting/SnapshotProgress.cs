using System.Text.Json.Nodes;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Cli.Hosting;

/// <summary>Where a save or restore under way stands, for status.</summary>
internal sealed class SnapshotProgress
{
    private SnapshotPhase _phase;
    private ulong _pagesDone;
    private ulong _pagesTotal;

    public void Observe(SnapshotEvent snapshotEvent)
    {
        switch (snapshotEvent)
        {
            case SnapshotEvent.PhaseBegan began:
                _phase = began.Phase;
                break;
            case SnapshotEvent.Progress progress:
                (_pagesDone, _pagesTotal) = (progress.PagesDone, progress.PagesTotal);
                break;
        }
    }

    public JsonObject ToJson() => new()
    {
        ["phase"] = _phase.ToString().ToLowerInvariant(),
        ["pagesDone"] = _pagesDone,
        ["pagesTotal"] = _pagesTotal,
    };
}
