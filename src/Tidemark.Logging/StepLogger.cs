using System.Collections;
using System.Diagnostics.Tracing;
using Microsoft.Extensions.Logging;
using Tidemark.Kernel;

namespace Tidemark.Logging;

/// <summary>
/// Hands every step (<see cref="StepEvents"/>) to an <see cref="ILogger"/>: names and values as structured state, the
/// sentence as text. What succeeded is Debug, what the kernel refused Information: a refusal is often only a question
/// answered, and a failure that matters is an exception besides.
/// </summary>
/// <remarks>Events are of the whole process. Dispose it to stop.</remarks>
public sealed class StepLogger : EventListener
{
    private readonly ILogger? _logger;

    public StepLogger(ILogger logger)
    {
        ArgumentNullException.ThrowIfNull(logger);
        _logger = logger;
    }

    protected override void OnEventSourceCreated(EventSource eventSource)
    {
        ArgumentNullException.ThrowIfNull(eventSource);
        // Called by the constructor of the class above, before there is a logger.
        if (eventSource.Name == StepEvents.SourceName)
            EnableEvents(eventSource, EventLevel.Verbose);
    }

    protected override void OnEventWritten(EventWrittenEventArgs eventData)
    {
        ArgumentNullException.ThrowIfNull(eventData);
        if (_logger is not { } logger)
            return;
        var step = new StepState(eventData);
        logger.Log(
            step.IsRefusal ? LogLevel.Information : LogLevel.Debug, new EventId(eventData.EventId, eventData.EventName), step,
            exception: null, static (state, _) => state.ToString());
    }

    /// <summary>Names and values of a step, as loggers want them.</summary>
    private sealed class StepState : IReadOnlyList<KeyValuePair<string, object?>>
    {
        private readonly List<KeyValuePair<string, object?>> _values = [];
        private readonly string _text;

        public StepState(EventWrittenEventArgs step)
        {
            _text = StepEvents.Describe(step);
            for (int index = 0; index < (step.PayloadNames?.Count ?? 0); index++)
                _values.Add(new(step.PayloadNames![index], step.Payload![index]));
            IsRefusal = _values.Exists(value => value is { Key: "outcome", Value: not "ok" });
            _values.Add(new("{OriginalFormat}", step.Message));
        }

        public bool IsRefusal { get; }

        public int Count => _values.Count;

        public KeyValuePair<string, object?> this[int index] => _values[index];

        public IEnumerator<KeyValuePair<string, object?>> GetEnumerator() => _values.GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        public override string ToString() => _text;
    }
}
