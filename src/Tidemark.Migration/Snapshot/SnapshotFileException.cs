namespace Tidemark.Migration.Snapshot;

/// <summary>
/// A file is no snapshot, no complete one, or not as it was written. The message is a whole sentence.
/// </summary>
public sealed class SnapshotFileException(string message) : Exception(message);
