using System.Diagnostics.CodeAnalysis;

namespace Tidemark.Memory.Codecs;

/// <summary>Zstandard frames, by the system's own library.</summary>
/// <remarks>
/// <code>idle --Compress, TryDecompress--> in use --> idle --Dispose--> disposed</code>
/// Two threads in one context would write where they should not, so that is an <see cref="InvariantException"/>.
/// </remarks>
public sealed class ZstdCodec : IPageCodec
{
    /// <summary>
    /// Measured on blocks of 256 KiB (zstd 1.5.4, one thread, processor time; MB/s and ratio):
    /// <code>
    /// level        text         shared objects   records of pointers   half zeros    random
    ///  -7       377   3.3         668   1.35         1210    3.0       2998  2.0    2706  1.0
    ///  -5       376   3.4         594   1.43         1171    4.0       2785  2.0    2641  1.0
    ///  -1       360   3.6         413   1.69         1033    9.4       2283  2.0    2543  1.0
    ///   1       360   3.8         356   1.86          893   10.2        900  2.0    2429  1.0
    /// </code>
    /// Level -1 has nearly the ratio of level 1 and keeps its speed where there is nothing to find.
    /// </summary>
    public const int DefaultLevel = -1;

    /// <summary>How a Zstandard frame begins (RFC 8878, 3.1.1).</summary>
    private static ReadOnlySpan<byte> Magic => [0x28, 0xb5, 0x2f, 0xfd];

    private const int Idle = 0;
    private const int InUse = 1;
    private const int Disposed = 2;

    private readonly ZstdLibrary _library;
    private readonly ZstdContext _compressor;
    private readonly ZstdContext _decompressor;
    private readonly int _level;
    private int _state;

    private ZstdCodec(ZstdLibrary library, ZstdContext compressor, ZstdContext decompressor, int level)
    {
        _library = library;
        _compressor = compressor;
        _decompressor = decompressor;
        _level = level;
    }

    public string Name => "zstd";

    /// <summary>Makes a codec, if this system has the library.</summary>
    /// <param name="level">See <see cref="DefaultLevel"/>; negative ones are fast.</param>
    /// <param name="codec">The codec, which the caller owns.</param>
    /// <param name="why">When false is returned: one sentence. Else empty.</param>
    public static bool TryCreate(int level, [NotNullWhen(true)] out ZstdCodec? codec, out string why)
    {
        codec = null;
        if (ZstdLibrary.TryLoad(out why) is not { } library)
            return false;
        if (level < library.MinimumLevel || level > library.MaximumLevel)
        {
            why = $"zstd has levels {library.MinimumLevel} to {library.MaximumLevel}; {level} is none of them.";
            return false;
        }

        ZstdContext? compressor = library.TryCreateCompressor();
        ZstdContext? decompressor = library.TryCreateDecompressor();
        if (compressor is null || decompressor is null)
        {
            compressor?.Dispose();
            decompressor?.Dispose();
            why = "zstd could not allocate its contexts.";
            return false;
        }

        codec = new ZstdCodec(library, compressor, decompressor, level);
        return true;
    }

    /// <inheritdoc/>
    public int Compress(ReadOnlySpan<byte> content, Span<byte> into)
    {
        Enter();
        try
        {
            // Nothing can be smaller than nothing, and nothing fits into nothing.
            if (content.IsEmpty || into.IsEmpty)
                return 0;
            return _library.Compress(_compressor, content, into, _level);
        }
        finally
        {
            Volatile.Write(ref _state, Idle);
        }
    }

    /// <inheritdoc/>
    public bool TryDecompress(ReadOnlySpan<byte> compressed, Span<byte> exactly)
    {
        Enter();
        try
        {
            // A block is never empty. Skippable frames and those of zstd before 0.8, whose decoders nobody tests any
            // more, begin otherwise.
            if (exactly.IsEmpty || !compressed.StartsWith(Magic))
                return false;
            return _library.TryDecompress(_decompressor, compressed, exactly);
        }
        finally
        {
            Volatile.Write(ref _state, Idle);
        }
    }

    /// <summary>Frees the contexts. Idempotent; not while the codec is in use.</summary>
    public void Dispose()
    {
        if (Interlocked.CompareExchange(ref _state, Disposed, Idle) == InUse)
            throw new InvariantException("A codec was disposed while it was in use.");
        _compressor.Dispose();
        _decompressor.Dispose();
    }

    private void Enter()
    {
        int state = Interlocked.CompareExchange(ref _state, InUse, Idle);
        ObjectDisposedException.ThrowIf(state == Disposed, this);
        Invariant.Require(state == Idle, "A codec serves one thread at a time; two used it.");
    }
}
