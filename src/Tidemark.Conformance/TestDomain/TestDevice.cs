namespace Tidemark.Conformance.TestDomain;

/// <summary>What a test device is made with (iommufd_test.h).</summary>
[Flags]
internal enum TestDeviceFlags : uint
{
    None = 0,
    NoDirtyTracking = 1,
    Pasid = 4,
}

/// <summary>A device of the test domain: attached from the start, gone when <paramref name="Id"/> is
/// destroyed.</summary>
/// <param name="Id">The test's object, which the test commands take.</param>
/// <param name="DeviceId">The device as every other request knows it.</param>
/// <param name="Hwpt">What it was attached to first.</param>
internal sealed record TestDevice(uint Id, uint DeviceId, uint Hwpt);
