using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// What the VFIO layer asks of an iommufd on behalf of one device. Implemented by the iommufd context; the device
/// object lives from <c>Bind</c> until <see cref="Unbind"/>.
/// </summary>
internal interface IBoundDevice
{
    /// <summary>The device object's id, above 0.</summary>
    uint DeviceId { get; }

    /// <summary>
    /// The id of the device behind a port in the same iommufd; <see cref="VfioPciDependentDevice.DevidOwned"/> when it
    /// is not bound but its group belongs to that iommufd, and otherwise <see
    /// cref="VfioPciDependentDevice.DevidNotOwned"/>.
    /// </summary>
    uint DeviceIdOf(IDmaPort port);

    /// <summary>
    /// Attaches to an IOAS (auto domain) or HWPT, or replaces the current attachment. On success <paramref
    /// name="pageTableId"/>
    /// is the HWPT in use. On failure the previous attachment is intact.
    /// </summary>
    Errno Attach(ref uint pageTableId);

    /// <summary>Detaches; DMA is blocked afterwards. Nothing when not attached.</summary>
    void Detach();

    /// <summary>Its driver can attach PASIDs. An emulated device's can not.</summary>
    bool HasPasids { get; }

    /// <summary>Attaches a PASID to a table that is made for PASIDs, or moves it. EOPNOTSUPP without PASIDs.</summary>
    /// <param name="replace">It is attached already.</param>
    Errno TryAttachPasid(uint pasid, ref uint pageTableId, bool replace);

    /// <summary>Detaches a PASID; nothing when it is not attached.</summary>
    void DetachPasid(uint pasid);

    /// <summary>Detaches and destroys the device object.</summary>
    void Unbind();
}
