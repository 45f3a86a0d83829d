namespace Tidemark.Kernel.Soft;

/// <summary>
/// A mediated device (mdev) as Linux's sample driver mtty makes them: a PCI serial card that exists only in the driver.
/// It has all migration states and no DMA.
/// </summary>
/// <param name="Uuid">Names it in sysfs, in lower case: <c>83b8f4f2-509f-382f-3c1e-e6bfe0fa1001</c>.</param>
/// <param name="Ports">Serial ports, 1 or 2.</param>
public sealed record SoftMtty(string Uuid, int Ports);
