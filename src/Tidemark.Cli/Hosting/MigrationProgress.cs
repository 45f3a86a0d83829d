using System.Text.Json.Nodes;
using Tidemark.Machine;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>Where a migration under way stands, for status.</summary>
internal sealed class MigrationProgress
{
    private MigrationPhase _phase;
    private int _pass;
    private ulong _pagesDone;
    private ulong _pagesTotal;
    private PassReport? _before;
    private PassReport? _last;

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
                (_before, _last) = (_last, ended.Pass);
                break;
        }
    }

    /// <summary>
    /// How fast the machine writes, from the passes so far: what a pass sends became dirty during the one before. Null
    /// while there is no such pair.
    /// </summary>
    public DirtyRate? FindDirtyRate() => _before is not null && _last is { Final: false }
        ? new DirtyRate(_before.Duration, _last.Sources, _last.DirtyPages)
        : null;

    public JsonObject ToJson() => new()
    {
        ["phase"] = _phase.ToString().ToLowerInvariant(),
        ["pass"] = _pass,
        ["pagesDone"] = _pagesDone,
        ["pagesTotal"] = _pagesTotal,
    };
}
