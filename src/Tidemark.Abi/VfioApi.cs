namespace Tidemark.Abi;

/// <summary>Numbers of linux/vfio.h that belong to no struct.</summary>
public static class VfioApi
{
    /// <summary>What VFIO_GET_API_VERSION must answer.</summary>
    [Uapi("VFIO_API_VERSION")]
    public const int Version = 0;
}
