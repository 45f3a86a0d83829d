using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
using Tidemark.Machine;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <remarks>Figures of a machine that stays where it is.</remarks>
internal sealed partial class MachineProcess
{
    /// <summary>What a forecast assumes of the link when nobody says.</summary>
    private const double UsualBandwidth = 1UL << 30;

    /// <summary>Several lengths, because a working set shows only in how the rate falls with them.</summary>
    private static readonly TimeSpan[] s_periods =
        [.. ((int[])[100, 200, 400, 800, 100, 400]).Select(milliseconds => TimeSpan.FromMilliseconds(milliseconds))];

    /// <summary>What a migration would be like; nothing is sent, and nobody is asked to receive.</summary>
    private JsonObject Forecast(JsonObject request)
    {
        ConvergenceOptions options = MigrationRequest.Read(request).Convergence;
        double? stated = request["bandwidthLimit"]?.GetValue<ulong>();
        return WhileMeasuring(cancel =>
        {
            IReadOnlyList<ForecastInterval> intervals = DirtyRate.MeasureIntervals(_machine, s_periods, cancel, out TimeSpan harvest);
            (ulong state, bool unknown) = EstimateState();
            ulong pages = _machine.Memory.ByteLength / Tidemark.Memory.GuestPage.Size;
            MigrationForecast forecast = MigrationForecast.Make(
                new ForecastFacts
                {
                    MemoryPages = pages,
                    Intervals = intervals,
                    BytesPerSecond = stated ?? UsualBandwidth,
                    NonZeroShare = _machine.FindTouchedPages().CountSet() / (double)pages,
                    HarvestTime = harvest,
                    StateBytes = state,
                    StateUnknown = unknown,
                },
                options);
            JsonObject json = MigrationJson.Forecast(forecast);
            json["bandwidthBytesPerSecond"] = stated ?? UsualBandwidth;
            json["bandwidthIsAssumed"] = stated is null;
            json["kernel"] = _machine.KernelIdentity.ToString();
            return json;
        });
    }

    private (ulong Bytes, bool Unknown) EstimateState()
    {
        ulong bytes = 0;
        bool unknown = false;
        foreach (IMigratable part in _machine.Parts)
        {
            try
            {
                StateEstimate estimate = part.Estimate();
                bytes += estimate.StopBytes ?? estimate.InitialBytes + estimate.DirtyBytes;
                unknown |= estimate.StopBytes is null;
            }
            catch (Exception failure) when (failure is Tidemark.Kernel.KernelException or InvalidOperationException)
            {
                // A device that says nothing while it runs; the forecast states that it does not know.
                unknown = true;
            }
        }

        return (bytes, unknown);
    }

    /// <summary>Measures while nothing else uses the tracker; a migration that is asked for ends it.</summary>
    private JsonObject WhileMeasuring(Func<CancellationToken, JsonObject> measure)
    {
        using var cancel = new CancellationTokenSource();
        lock (_gate)
        {
            if (_state != MachineState.Running)
                throw new CommandFailure($"{_name} can not be measured now: it is {_state.ToString().ToLowerInvariant()}.");
            _state = MachineState.Measuring;
            _measureCancel = cancel;
            _idle.Reset();
        }

        try
        {
            return measure(cancel.Token);
        }
        finally
        {
            lock (_gate)
            {
                _measureCancel = null;
                _state = MachineState.Running;
                _idle.Set();
            }
        }
    }
}
