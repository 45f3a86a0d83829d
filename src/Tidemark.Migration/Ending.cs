using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>The migration has failed on some thread; that failure is inside.</summary>
internal sealed class LinkFailedException(Exception failure) : Exception(failure.Message, failure);

/// <summary>The peer gave up and said why.</summary>
internal sealed class PeerException(string reason, bool cancelled) : Exception(reason)
{
    public bool Cancelled => cancelled;
}

/// <summary>A connection with pages failed; why is inside.</summary>
internal sealed class ChannelFailedException(int number, Exception failure)
    : Exception($"Channel {number} failed: {failure.Message}", failure);

/// <summary>The engine found a reason not to go on.</summary>
internal sealed class MigrationFailedException(string cause, string? caughtBy = null, Exception? inner = null)
    : Exception(cause, inner)
{
    public string? CaughtBy => caughtBy;
}

/// <summary>How both sides find out what it was that failed.</summary>
internal static class Ending
{
    /// <summary>LIMIT: how long a side that merely lost a connection waits for the other's reason.</summary>
    public static readonly TimeSpan PeerWordLimit = TimeSpan.FromMilliseconds(500);

    public static Exception RootOf(Exception failure) =>
        failure is LinkFailedException { InnerException: { } inner } ? inner : failure;

    /// <summary>A connection was lost, which says nothing about why.</summary>
    public static bool IsLoss(Exception root) =>
        root is IOException or NotTidemarkException || root is ChannelFailedException { InnerException: IOException };
}
