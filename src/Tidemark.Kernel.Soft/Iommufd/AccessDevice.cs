using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// An emulated device (mdev) bound to an iommufd: its id is that of an access, and it attaches to an IOAS, never to a
/// page table.
/// </summary>
internal sealed class AccessDevice(IoasAccess access) : IBoundDevice
{
    public uint DeviceId => access.Id;

    public IoasAccess Access => access;

    /// <summary>It is on no bus.</summary>
    public uint DeviceIdOf(IDmaPort port) => VfioPciDependentDevice.DevidNotOwned;

    /// <summary>ENOENT also for the id of a page table. The id stays as it is: there is no page table.</summary>
    public Errno Attach(ref uint pageTableId) =>
        access.IsAttached ? access.Replace(pageTableId) : access.Attach(pageTableId);

    public void Detach() => access.Detach();

    public bool HasPasids => false;

    public Errno TryAttachPasid(uint pasid, ref uint pageTableId, bool replace) => Errno.EOPNOTSUPP;

    public void DetachPasid(uint pasid)
    {
    }

    public void Unbind() => access.Close();
}
