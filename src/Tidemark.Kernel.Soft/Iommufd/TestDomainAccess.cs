using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// The descriptor of an access made by IOMMU_TEST_CMD. What it pins has numbers from 0; what is unmapped it lets go of.
/// </summary>
internal sealed class TestDomainAccess : SoftFile, IIoasAccessOwner
{
    private readonly IommufdContext _context;
    private readonly Dictionary<uint, AccessPin> _items = [];
    private IoasAccess? _access;
    private uint _next;

    public TestDomainAccess(IommufdContext context) => _context = context;

    public override string Kind => "iommufd-test-access";

    public IoasAccess Access => _access!;

    /// <summary>Before anybody has the descriptor.</summary>
    public void Use(IoasAccess access) => _access = access;

    /// <summary>Pins and numbers what was pinned; <paramref name="isExpected"/> looks at it first (EBADE).</summary>
    public Errno TryPin(
        ulong iova, ulong byteLength, bool write, Func<AccessPin, Errno> isExpected, out uint item)
    {
        item = 0;
        lock (_context.Gate)
        {
            Errno errno = Access.TryPin(iova, byteLength, write, out AccessPin? pin);
            if (errno != Errno.Success)
                return errno;
            errno = isExpected(pin!);
            if (errno != Errno.Success)
            {
                Access.Unpin(iova, byteLength);
                return errno;
            }

            item = unchecked(_next++);
            _items[item] = pin!;
            return Errno.Success;
        }
    }

    /// <summary>False: there is no such item.</summary>
    public bool TryUnpin(uint item)
    {
        lock (_context.Gate)
        {
            if (!_items.Remove(item, out AccessPin? pin))
                return false;
            Access.Unpin(pin.Iova, pin.ByteLength);
            return true;
        }
    }

    public void OnUnmap(ulong first, ulong last)
    {
        foreach ((uint item, AccessPin pin) in _items.ToArray())
        {
            if (first <= pin.Iova + (pin.ByteLength - 1) && last >= pin.Iova)
                TryUnpin(item);
        }
    }

    public override void Release()
    {
        lock (_context.Gate)
            OnUnmap(0, ulong.MaxValue);
        Access.Close();
    }
}
