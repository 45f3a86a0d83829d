using System.Diagnostics.CodeAnalysis;

namespace Tidemark.Machine;

/// <summary>
/// The state of a part that has little of it: made in one piece when the part stands still and given out in pieces;
/// on the other side collected in pieces and taken in one.
/// </summary>
[SuppressMessage("Design", "CA1001", Justification = "A MemoryStream holds memory and nothing that waits to be given back.")]
internal sealed class PartStateBuffer
{
    private MemoryStream _incoming = new();
    private MemoryStream _outgoing = new();
    private bool _made;
    private int _read;

    /// <summary>Bytes still to be given out; null before the state was made.</summary>
    public ulong? Left => _made ? (ulong)(_outgoing.Length - _read) : null;

    /// <summary>What has arrived.</summary>
    public ReadOnlySpan<byte> Arrived => _incoming.GetBuffer().AsSpan(0, (int)_incoming.Length);

    /// <summary>Forgets both directions: a new saving or loading begins.</summary>
    public void Clear()
    {
        _made = false;
        _read = 0;
        _outgoing = new MemoryStream();
        _incoming = new MemoryStream();
    }

    /// <summary>Before the machine stands still: makes room for a state of about this length, and touches it.</summary>
    public void Reserve(int outgoing = 0, int incoming = 0)
    {
        // Growing is what clears it; the room stays.
        _outgoing.SetLength(outgoing);
        _outgoing.SetLength(0);
        _incoming.SetLength(incoming);
        _incoming.SetLength(0);
    }

    /// <summary>Gives out the next bytes; 0 at the end.</summary>
    /// <param name="save">Makes the state, when it is asked for the first time.</param>
    public int Read(Span<byte> buffer, Func<byte[]> save) => Read(buffer, made => made.Write(save()));

    /// <inheritdoc cref="Read(Span{byte}, Func{byte[]})"/>
    public int Read(Span<byte> buffer, Action<MemoryStream> save)
    {
        if (!_made)
        {
            // What a failure left of an attempt before is no part of this one.
            _outgoing.SetLength(0);
            save(_outgoing);
            _made = true;
        }

        int length = Math.Min(buffer.Length, (int)_outgoing.Length - _read);
        _outgoing.GetBuffer().AsSpan(_read, length).CopyTo(buffer);
        _read += length;
        return length;
    }

    /// <summary>Collects the next bytes.</summary>
    /// <param name="limit">No state of this part is longer, in bytes.</param>
    /// <param name="what">Whose state it is, to begin a message with.</param>
    /// <exception cref="InvalidDataException">It would be longer; these bytes were not taken.</exception>
    public void Write(ReadOnlySpan<byte> bytes, long limit, string what)
    {
        if (_incoming.Length + bytes.Length > limit)
            throw new InvalidDataException($"{what} is longer than any could be.");
        _incoming.Write(bytes);
    }

    /// <summary>What has arrived, to be read from its beginning.</summary>
    public MemoryStream OpenArrived() => new(_incoming.GetBuffer(), 0, (int)_incoming.Length, writable: false);
}
