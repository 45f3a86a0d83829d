namespace Tidemark.Migration.Snapshot;

/// <summary>A snapshot file as the engine reads and writes it: bytes at offsets, from any thread.</summary>
/// <remarks>
/// Two lanes that never touch the same 4096 bytes: whole pages of guest memory, which may go past the page cache
/// (<see cref="INewSnapshotFile.WritePages"/>, <see cref="ReadPages"/>), and everything else.
/// Every member may throw <see cref="IOException"/> whose message is one sentence with operation, file, range and
/// errno, and what to do where there is something to do.
/// </remarks>
public interface ISnapshotFile : IDisposable
{
    /// <summary>The file's name, for messages.</summary>
    string Path { get; }

    /// <summary>
    /// How pages travel: <c>direct</c> or <c>buffered</c>, and why; may change while the file is used.
    /// </summary>
    PageLane Lane { get; }

    /// <summary>The length of the file as it is now.</summary>
    ulong ReadLength();

    /// <summary>Fills the buffer.</summary>
    /// <exception cref="IOException">The file ends before, or can not be read.</exception>
    void Read(Span<byte> buffer, ulong offset);

    /// <summary>Fills whole pages of guest memory.</summary>
    /// <param name="pages">Page-aligned in this process, a whole number of pages.</param>
    /// <exception cref="IOException">As for <see cref="Read"/>.</exception>
    void ReadPages(Span<byte> pages, ulong offset);
}

/// <summary>A snapshot file that is being made, under a name that is not yet its own.</summary>
/// <remarks>
/// <code>
/// temporary name --Publish--> the name asked for
///       '--------Dispose--> gone; what had the name before has it still
/// </code>
/// </remarks>
public interface INewSnapshotFile : ISnapshotFile
{
    /// <summary>Makes the file so long; what was not written reads as zero and takes no space.</summary>
    void SetLength(ulong byteLength);

    /// <summary>Writes all bytes.</summary>
    void Write(ReadOnlySpan<byte> bytes, ulong offset);

    /// <summary>Writes whole pages, straight from guest memory where the file takes that.</summary>
    /// <param name="pages">As for <see cref="ISnapshotFile.ReadPages"/>. May change while they are written.</param>
    void WritePages(ReadOnlySpan<byte> pages, ulong offset);

    /// <summary>Puts everything written so far into stable storage.</summary>
    void Sync();

    /// <summary>Gives the file its name, in place of whatever has it, and puts that into stable storage too.</summary>
    /// <exception cref="IOException">The file has its temporary name still, or (when only the last step failed) its
    /// own;
    /// <see cref="IDisposable.Dispose"/> removes it all the same.</exception>
    void Publish();
}

/// <summary>How pages travel between memory and file.</summary>
/// <param name="Direct">Past the page cache.</param>
/// <param name="Reason">A sentence: why so.</param>
public sealed record PageLane(bool Direct, string Reason);
