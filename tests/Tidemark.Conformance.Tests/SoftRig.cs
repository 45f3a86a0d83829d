using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;

namespace Tidemark.Conformance.Tests;

/// <summary>A soft host with a device of every kind the cases ask for.</summary>
internal sealed class SoftRig : IDisposable
{
    private const ulong DiskLength = 1 << 16;

    private readonly string _disk = Path.GetTempFileName();

    /// <param name="sharedGroups">Devices 1 and 2, and 4 and 5, share an IOMMU group.</param>
    public SoftRig(SoftKernelFaults faults = SoftKernelFaults.None, bool testDomain = true, bool sharedGroups = false)
    {
        File.WriteAllBytes(_disk, new byte[DiskLength]);
        Soft = new SoftKernel(new LinuxKernel(), new SoftHost(
            [
                new SoftIommuUnit("tracking"), new SoftIommuUnit("plain") { DirtyTracking = false },
                new SoftIommuUnit("five-levels") { AddressWidth = 57 },
                new SoftIommuUnit("amd") { Kind = SoftIommuKind.Amd },
                new SoftIommuUnit("smmuv3") { Kind = SoftIommuKind.SmmuV3 },
            ],
            [
                Nvme(1, "tracking", p2p: false, preCopy: false),
                Nvme(2, "tracking", p2p: true, preCopy: false) with { GroupWith = sharedGroups ? Address(1) : null },
                Nvme(3, "tracking", p2p: false, preCopy: true) with { DmaLogging = true },
                Nvme(4, "plain", p2p: true, preCopy: true) with { DmaLogging = true },
                Nvme(5, "plain", p2p: false, preCopy: false) with
                {
                    Migration = false, GroupWith = sharedGroups ? Address(4) : null,
                },
                Nvme(6, "five-levels", p2p: false, preCopy: false) with { Migration = false },
                Nvme(7, "amd", p2p: false, preCopy: false) with { Migration = false },
                Nvme(8, "smmuv3", p2p: false, preCopy: false) with { Migration = false },
                Nvme(9, null, p2p: false, preCopy: false) with { Migration = false },
            ])
        {
            TestDomain = testDomain,
            Mediated = [new SoftMtty(Mdevs[0], 2), new SoftMtty(Mdevs[1], 2)],
        }, faults);
        Baseline = Soft.CountOpen();
    }

    public SoftKernel Soft { get; }

    public SoftKernelUsage Baseline { get; }

    public static IReadOnlyList<string> Mdevs { get; } =
        ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"];

    public static IReadOnlyList<string> Addresses { get; } =
        [.. Enumerable.Range(1, 9).Select(Address), .. Mdevs];

    public void Dispose()
    {
        Soft.Dispose();
        File.Delete(_disk);
    }

    private static string Address(int number) => $"0000:{number:x2}:00.0";

    private SoftNvme Nvme(int number, string? unit, bool p2p, bool preCopy) =>
        new(Address(number), unit, new SoftDisk(_disk, DiskLength)) { P2P = p2p, PreCopy = preCopy };
}
