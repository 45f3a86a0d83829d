using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Files;

/// <summary>Whoever mapped a dma-buf, told when its memory goes.</summary>
internal interface IDmaBufImporter
{
    /// <summary>
    /// When this returns no device reaches the memory through this mapping, which stays empty also when the memory is
    /// back: it is mapped anew then.
    /// </summary>
    void OnRevoked();
}

/// <summary>
/// Memory that a driver lends to others: part of a device's BAR. The lender can revoke it and give it back.
/// </summary>
/// <remarks>
/// <code>
/// lent -- Move(true) --> revoked -- Move(false) --> lent      End: revoked for ever, the lender is gone
///                        either way what is mapped is emptied, for good
/// </code>
/// Lock order: the lender's, an importer's, then this object's, under which nobody is called. Lives while a descriptor or
/// an importer refers to it.
/// </remarks>
/// <param name="physical">Where its bytes lie in the physical address space, in one piece.</param>
/// <param name="byteLength">Whole pages.</param>
/// <param name="isWhole">It is in one piece; others can be lent, and mapped by nobody.</param>
internal sealed class DmaBuf(ulong physical, ulong byteLength, bool isWhole)
{
    private readonly Lock _gate = new();
    private readonly List<IDmaBufImporter> _importers = [];
    private int _references = 1;
    private bool _revoked;
    private bool _ended;

    public ulong Physical { get; } = physical;

    public ulong ByteLength { get; } = byteLength;

    /// <summary>Nobody has it any more.</summary>
    public bool IsReleased => Volatile.Read(ref _references) == 0;

    /// <summary>What happens when nobody has it any more; null: nothing.</summary>
    public Action? Released { get; init; }

    /// <summary>Lent by the test domain, which revokes its own only.</summary>
    public bool IsOfTestDomain { get; init; }

    /// <summary>The caller already holds a reference, or a descriptor that does.</summary>
    public void AddReference() => Interlocked.Increment(ref _references);

    public void Release()
    {
        if (Interlocked.Decrement(ref _references) == 0)
            Released?.Invoke();
    }

    /// <summary>ENODEV: revoked; EOPNOTSUPP: in several pieces.</summary>
    public Errno TryImport(IDmaBufImporter importer)
    {
        lock (_gate)
        {
            if (_revoked)
                return Errno.ENODEV;
            if (!isWhole)
                return Errno.EOPNOTSUPP;
            _importers.Add(importer);
            return Errno.Success;
        }
    }

    public void Forget(IDmaBufImporter importer)
    {
        lock (_gate)
            _importers.Remove(importer);
    }

    /// <summary>Revokes, or gives back. When it returns every importer has let go.</summary>
    /// <param name="evenIfSame">Importers let go even if nothing is different.</param>
    public void Move(bool revoked, bool evenIfSame = false)
    {
        IDmaBufImporter[] importers;
        lock (_gate)
        {
            if (_ended || (_revoked == revoked && !evenIfSame))
                return;
            _revoked = revoked;
            importers = [.. _importers];
        }

        foreach (IDmaBufImporter importer in importers)
            importer.OnRevoked();
    }

    /// <summary>The lender is gone: revoked, and never given back.</summary>
    public void End()
    {
        Move(revoked: true);
        lock (_gate)
            _ended = true;
    }
}

/// <summary>A descriptor of a dma-buf.</summary>
/// <param name="buffer">With a reference for the file.</param>
internal sealed class DmaBufFile(DmaBuf buffer) : SoftFile
{
    public override string Kind => "dma-buf";

    public DmaBuf Buffer { get; } = buffer;

    /// <summary>None of the lenders lets its memory be mapped through the dma-buf.</summary>
    public override SyscallResult ResolveMmap(
        ulong byteLength, MemoryProtection protection, ulong offset, out int hostFd, out ulong hostOffset)
    {
        hostFd = -1;
        hostOffset = 0;
        return SyscallResult.Fail(Errno.EINVAL);
    }

    public override void Release() => Buffer.Release();
}
