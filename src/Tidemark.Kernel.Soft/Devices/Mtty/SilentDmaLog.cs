using Tidemark.Abi;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>
/// The log of a device without DMA: always clean. It is neither started nor stopped, so a report needs no start and a
/// second start is fine.
/// </summary>
internal sealed class SilentDmaLog(IVfioHost kernel) : IVfioDmaLog
{
    public Errno Start(ref VfioDeviceFeatureDmaLoggingControl control) =>
        DmaLogRequest.ReadRanges(kernel, control, out _);

    public void Stop()
    {
    }

    public Errno Report(in VfioDeviceFeatureDmaLoggingReport report) => DmaLogRequest.Check(report);
}
