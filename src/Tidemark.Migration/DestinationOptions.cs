using Tidemark.Memory.Codecs;

namespace Tidemark.Migration;

/// <summary>How a machine is to be received.</summary>
public sealed record DestinationOptions
{
    /// <summary>
    /// How long the receiver waits for the source without any progress before it gives the connection up.
    /// </summary>
    public TimeSpan IdleTimeout { get; init; } = TimeSpan.FromSeconds(20);

    /// <summary>
    /// Longest wait for a source whose connection was lost to come back, before Commit; the source may ask for less. Then
    /// the receiver gives up by itself.
    /// </summary>
    public TimeSpan AwaitSourceFor { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Most connections with pages that a source may open, 1 to 64.</summary>
    public int MaximumChannels { get; init; } = 64;

    /// <summary>Makes a channel's codec (zstd); null: no source may compress.</summary>
    public Func<IPageCodec>? Codec { get; init; }

    /// <summary>
    /// Keep listening after a source that was turned away before anything was received: another version, a machine that
    /// does not match. Peers that do not speak this protocol at all never end the receiver.
    /// </summary>
    public bool AcceptAgain { get; init; }

    /// <summary>Faults planted on purpose. All present ones are the source's; the receiver only states them.</summary>
    public MigrationFaults Faults { get; init; }
}
