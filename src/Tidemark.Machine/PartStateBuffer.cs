using System.Buffers;

namespace Tidemark.Machine;

/// <summary>
/// The state of a part that has little of it: made in one piece when the part stands still and given out in pieces;
/// on the other side collected in pieces and taken in one.
/// </summary>
internal sealed class PartStateBuffer
{
    private readonly ArrayBufferWriter<byte> _incoming = new();
    private byte[]? _outgoing;
    private int _read;

    /// <summary>Bytes still to be given out; null before the state was made.</summary>
    public ulong? Left => _outgoing is null ? null : (ulong)(_outgoing.Length - _read);

    /// <summary>What has arrived.</summary>
    public ReadOnlySpan<byte> Arrived => _incoming.WrittenSpan;

    /// <summary>Forgets both directions: a new saving or loading begins.</summary>
    public void Clear()
    {
        _outgoing = null;
        _read = 0;
        _incoming.Clear();
    }

    /// <summary>Gives out the next bytes; 0 at the end.</summary>
    /// <param name="save">Makes the state, when it is asked for the first time.</param>
    public int Read(Span<byte> buffer, Func<byte[]> save)
    {
        _outgoing ??= save();
        int length = Math.Min(buffer.Length, _outgoing.Length - _read);
        _outgoing.AsSpan(_read, length).CopyTo(buffer);
        _read += length;
        return length;
    }

    /// <summary>Collects the next bytes.</summary>
    /// <param name="limit">No state of this part is longer, in bytes.</param>
    /// <param name="what">Whose state it is, to begin a message with.</param>
    /// <exception cref="InvalidDataException">It would be longer; these bytes were not taken.</exception>
    public void Write(ReadOnlySpan<byte> bytes, long limit, string what)
    {
        if (_incoming.WrittenCount + (long)bytes.Length > limit)
            throw new InvalidDataException($"{what} is longer than any could be.");
        _incoming.Write(bytes);
    }
}
