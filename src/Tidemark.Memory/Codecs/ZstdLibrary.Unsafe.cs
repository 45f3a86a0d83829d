using System.Runtime.InteropServices;

namespace Tidemark.Memory.Codecs;

/// <summary>
/// The system's libzstd, found when it is first asked for; a machine without it can do without compression. Loaded once
/// and never unloaded.
/// </summary>
internal sealed unsafe class ZstdLibrary
{
    private const string FileName = "libzstd.so.1";

    /// <summary>LIMIT: 1.4.0, the first version whose calls below are declared stable.</summary>
    private const uint OldestVersion = 10400;

    private static readonly Lock s_gate = new();
    private static ZstdLibrary? s_loaded;

    private readonly delegate* unmanaged<uint> _version;
    private readonly delegate* unmanaged<nuint, uint> _isError;
    private readonly delegate* unmanaged<nint> _createCompressor;
    private readonly delegate* unmanaged<nint, nuint> _freeCompressor;
    private readonly delegate* unmanaged<nint> _createDecompressor;
    private readonly delegate* unmanaged<nint, nuint> _freeDecompressor;
    private readonly delegate* unmanaged<nint, byte*, nuint, byte*, nuint, int, nuint> _compress;
    private readonly delegate* unmanaged<nint, byte*, nuint, byte*, nuint, nuint> _decompress;
    private readonly delegate* unmanaged<byte*, nuint, ulong> _contentSize;
    private readonly delegate* unmanaged<byte*, nuint, nuint> _frameSize;
    private readonly delegate* unmanaged<int> _minimumLevel;
    private readonly delegate* unmanaged<int> _maximumLevel;

    private ZstdLibrary(nint library)
    {
        // SAFETY: the types are those of zstd.h 1.4.0; size_t is nuint. A name that is missing throws.
        _version = (delegate* unmanaged<uint>)Find(library, "ZSTD_versionNumber");
        _isError = (delegate* unmanaged<nuint, uint>)Find(library, "ZSTD_isError");
        _createCompressor = (delegate* unmanaged<nint>)Find(library, "ZSTD_createCCtx");
        _freeCompressor = (delegate* unmanaged<nint, nuint>)Find(library, "ZSTD_freeCCtx");
        _createDecompressor = (delegate* unmanaged<nint>)Find(library, "ZSTD_createDCtx");
        _freeDecompressor = (delegate* unmanaged<nint, nuint>)Find(library, "ZSTD_freeDCtx");
        _compress = (delegate* unmanaged<nint, byte*, nuint, byte*, nuint, int, nuint>)Find(library, "ZSTD_compressCCtx");
        _decompress = (delegate* unmanaged<nint, byte*, nuint, byte*, nuint, nuint>)Find(library, "ZSTD_decompressDCtx");
        _contentSize = (delegate* unmanaged<byte*, nuint, ulong>)Find(library, "ZSTD_getFrameContentSize");
        _frameSize = (delegate* unmanaged<byte*, nuint, nuint>)Find(library, "ZSTD_findFrameCompressedSize");
        _minimumLevel = (delegate* unmanaged<int>)Find(library, "ZSTD_minCLevel");
        _maximumLevel = (delegate* unmanaged<int>)Find(library, "ZSTD_maxCLevel");
    }

    internal int MinimumLevel => _minimumLevel();

    internal int MaximumLevel => _maximumLevel();

    /// <param name="why">When null is returned: one sentence.</param>
    internal static ZstdLibrary? TryLoad(out string why, string fileName = FileName)
    {
        lock (s_gate)
        {
            why = "";
            if (s_loaded is not null && fileName == FileName)
                return s_loaded;
            if (!NativeLibrary.TryLoad(fileName, out nint library))
            {
                why = $"This system has no {fileName} (zstd, 1.4.0 or newer).";
                return null;
            }

            try
            {
                var loaded = new ZstdLibrary(library);
                uint version = loaded._version();
                if (version < OldestVersion)
                {
                    why = $"This system's {fileName} has version {version}; 1.4.0 or newer ({OldestVersion}) is needed.";
                    return null;
                }

                return s_loaded = loaded;
            }
            catch (EntryPointNotFoundException missing)
            {
                // Nothing of the library was called; it stays loaded, which harms nobody.
                why = $"This system's {fileName} is not the library that is needed: {missing.Message}";
                return null;
            }
        }
    }

    internal ZstdContext? TryCreateCompressor() => Own(_createCompressor(), forCompression: true);

    internal ZstdContext? TryCreateDecompressor() => Own(_createDecompressor(), forCompression: false);

    internal void Free(nint context, bool forCompression)
    {
        if (forCompression)
            _freeCompressor(context);
        else
            _freeDecompressor(context);
    }

    /// <summary>Length of the frame, or 0 when it does not fit.</summary>
    internal int Compress(ZstdContext context, ReadOnlySpan<byte> content, Span<byte> into, int level)
    {
        // SAFETY: both are pinned and their lengths are passed on; the context is alive, because its owner is in use.
        fixed (byte* from = content)
        fixed (byte* to = into)
        {
            nuint written = _compress(
                context.Pointer, to, (nuint)into.Length, from, (nuint)content.Length, level);
            return _isError(written) != 0 ? 0 : checked((int)written);
        }
    }

    internal bool TryDecompress(ZstdContext context, ReadOnlySpan<byte> frame, Span<byte> exactly)
    {
        // SAFETY: as above. The library writes at most the length it is told. With the whole destination at hand it
        // needs no window of its own, so a frame can not make it allocate.
        fixed (byte* from = frame)
        fixed (byte* to = exactly)
        {
            // One frame, with its size stated, and nothing behind it; unknown and damaged sizes are huge numbers.
            if (_contentSize(from, (nuint)frame.Length) != (ulong)exactly.Length
                || _frameSize(from, (nuint)frame.Length) != (nuint)frame.Length)
            {
                return false;
            }

            return _decompress(context.Pointer, to, (nuint)exactly.Length, from, (nuint)frame.Length)
                == (nuint)exactly.Length;
        }
    }

    private static nint Find(nint library, string name) => NativeLibrary.GetExport(library, name);

    private ZstdContext? Own(nint context, bool forCompression) =>
        context == 0 ? null : new ZstdContext(this, context, forCompression);
}

/// <summary>A context of the library; freed when it is disposed or collected.</summary>
internal sealed class ZstdContext : SafeHandle
{
    private readonly ZstdLibrary _library;
    private readonly bool _forCompression;

    internal ZstdContext(ZstdLibrary library, nint context, bool forCompression)
        : base(0, ownsHandle: true)
    {
        _library = library;
        _forCompression = forCompression;
        SetHandle(context);
    }

    public override bool IsInvalid => handle == 0;

    internal nint Pointer => handle;

    protected override bool ReleaseHandle()
    {
        _library.Free(handle, _forCompression);
        return true;
    }
}
