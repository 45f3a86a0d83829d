namespace Tidemark.Abi;

/// <summary>A payload of VFIO_DEVICE_FEATURE that knows which feature it belongs to.</summary>
/// <remarks>Features without a payload have only their index.</remarks>
public interface IVfioDeviceFeature<TSelf>
    where TSelf : unmanaged, IVfioDeviceFeature<TSelf>
{
    static abstract VfioDeviceFeatureIndex Feature { get; }
}
