using System.Text.Json.Nodes;

namespace Tidemark.Bench.Soak;

/// <summary>
/// Looks at both sides of a migration while it goes on: as soon as the machine has run at the destination, nothing of it
/// may take another step at the source.
/// </summary>
internal sealed class RunnerWatch : IDisposable
{
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(100);

    private readonly SoakScene _scene;
    private readonly SoakProcess _source;
    private readonly SoakProcess _destination;
    private readonly ManualResetEventSlim _end = new();
    private readonly Thread _thread;
    private ulong? _sourceSteps;
    private volatile string? _violation;

    internal RunnerWatch(SoakScene scene, SoakProcess source, SoakProcess destination)
    {
        _scene = scene;
        _source = source;
        _destination = destination;
        _thread = new Thread(Watch) { IsBackground = true, Name = "soak watch" };
        _thread.Start();
    }

    /// <summary>What it saw that may not be, or null.</summary>
    internal string? Violation => _violation;

    /// <summary>What a machine has done in its process: it only ever grows, and only while the machine runs.</summary>
    internal static ulong StepsOf(JsonObject status)
    {
        ulong steps = status["pagesWritten"]!.GetValue<ulong>();
        foreach (JsonNode? device in status["devices"]!.AsArray())
            steps += device!["readsHere"]!.GetValue<ulong>();
        return steps;
    }

    public void Dispose()
    {
        _end.Set();
        _thread.Join();
        _end.Dispose();
    }

    private void Watch()
    {
        do
        {
            if (_source.HasEnded || _destination.HasEnded)
                continue;
            JsonObject? there = _sourceSteps is null ? _scene.Status(_destination) : null;
            bool runsThere = _sourceSteps is not null || (there is not null && StepsOf(there) > 0);
            if (!runsThere || _scene.Status(_source) is not { } here)
                continue;
            ulong steps = StepsOf(here);
            if (_sourceSteps is { } before && steps != before)
                _violation ??= $"Two runners: the machine took {steps - before} steps at the source after it had run at the destination.";
            _sourceSteps ??= steps;
        }
        while (!_end.Wait(s_pause));
    }
}
