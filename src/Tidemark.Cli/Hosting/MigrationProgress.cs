using System.Text.Json.Nodes;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>Where a migration under way stands, for status.</summary>
internal sealed class MigrationProgress
{
    private MigrationPhase _phase;
    private int _pass;
    private ulong _pagesDone;
    private ulong _pagesTotal;

    public void Observe(MigrationEvent migrationEvent)
    {
        switch (migrationEvent)
        {
            case MigrationEvent.PhaseBegan began:
                _phase = began.Phase;
                break;
            case MigrationEvent.PassProgress progress:
                (_pass, _pagesDone, _pagesTotal) = (progress.Index, progress.PagesDone, progress.PagesTotal);
                break;
            case MigrationEvent.PassEnded ended:
                _pass = ended.Pass.Index;
                break;
        }
    }

    public JsonObject ToJson() => new()
    {
        ["phase"] = _phase.ToString().ToLowerInvariant(),
        ["pass"] = _pass,
        ["pagesDone"] = _pagesDone,
        ["pagesTotal"] = _pagesTotal,
    };
}
