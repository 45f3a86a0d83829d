using Tidemark.Kernel.Soft;

namespace Tidemark.Cli.Hosting;

/// <summary>A host that the soft kernel models for <c>conform --profile</c>.</summary>
/// <param name="Summary">What it has, in a few words.</param>
/// <param name="Build">Its hardware; the disk file is the content of every controller.</param>
internal sealed record ConformProfile(string Name, string Summary, Func<SoftDisk, SoftHost> Build);

/// <summary>
/// The profiles, by the names of the virtual machines in which a real Linux is judged by the same cases. A profile has
/// what QEMU shows there, so both kernels must answer alike. A new one is a line in <see cref="All"/>.
/// </summary>
/// <remarks>QEMU's controllers are driven by vfio-pci, which has neither migration states nor DMA logging.</remarks>
internal static class ConformProfiles
{
    private const string Unit = "iommu0";

    /// <summary>As the lab names them.</summary>
    private static IReadOnlyList<SoftMtty> Mdevs { get; } =
    [
        new("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", Ports: 2), new("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", Ports: 2),
    ];

    public static IReadOnlyList<ConformProfile> All { get; } =
    [
        new("none", "a controller without IOMMU", disk => new SoftHost([], [QemuNvme(disk, 1, null) with { Resettable = true }])),
        new("mock", "no device but those of the kernel's test domain", _ => new SoftHost([], [])),
        new("mtty", "two of the kernel's sample mdevs, with migration states",
            _ => new SoftHost([], []) { Mediated = Mdevs }),
        new("vtd", "VT-d in legacy mode", disk => Behind(disk, SoftIommuKind.VtdLegacy, tracks: false)),
        new("legacy", "as vtd: the cases of group, container and type1",
            disk => Behind(disk, SoftIommuKind.VtdLegacy, tracks: false)),
        new("vtd-sm", "VT-d in scalable mode, second stage",
            disk => Behind(disk, SoftIommuKind.VtdScalable, tracks: false)),
        new("vtd-fs", "VT-d in scalable mode, first stage",
            disk => Behind(disk, SoftIommuKind.VtdFirstStage, tracks: false)),
        new("amd", "AMD IOMMU", disk => Behind(disk, SoftIommuKind.Amd, tracks: false)),
        new("virtio", "virtio-iommu", disk => Behind(disk, SoftIommuKind.Virtio, tracks: false)),
        new("vtd-dirty", "VT-d in scalable mode that sets dirty bits",
            disk => Behind(disk, SoftIommuKind.VtdScalable, tracks: true) with { Mediated = Mdevs }),
        new("amd-dirty", "AMD IOMMU that sets dirty bits", disk => Behind(disk, SoftIommuKind.Amd, tracks: true)),
        new("smmuv3-dirty", "SMMUv3 that updates the dirty state",
            disk => Behind(disk, SoftIommuKind.SmmuV3, tracks: true)),
    ];

    /// <summary>What <c>conform --kernel soft</c> judges without a profile: a device of every kind.</summary>
    /// <remarks>Each set of migration abilities, DMA logging or not, behind VT-d that tracks or not; and a plain
    /// controller behind each other kind of IOMMU, and behind none; two mdevs.</remarks>
    public static SoftHost Everything(SoftDisk disk)
    {
        const string Tracking = "tracking";
        const string Plain = "plain";
        SoftIommuUnit[] others =
        [
            new("five-levels") { AddressWidth = 57 },
            new("amd") { Kind = SoftIommuKind.Amd },
            new("smmuv3") { Kind = SoftIommuKind.SmmuV3 },
        ];
        return new SoftHost(
            [new SoftIommuUnit(Tracking), new SoftIommuUnit(Plain) { DirtyTracking = false }, .. others],
            [
                Nvme(disk, 1, Tracking) with { P2P = false, PreCopy = false },
                Nvme(disk, 2, Tracking) with { PreCopy = false },
                Nvme(disk, 3, Tracking) with { P2P = false, DmaLogging = true },
                Nvme(disk, 4, Plain) with { DmaLogging = true },
                PlainNvme(disk, 5, Plain),
                .. others.Select((unit, index) => PlainNvme(disk, 6 + index, unit.Name)),
                PlainNvme(disk, 6 + others.Length, null),
            ])
        {
            Mediated = Mdevs,
        };
    }

    /// <summary>Three controllers, each alone in its group.</summary>
    private static SoftHost Behind(SoftDisk disk, SoftIommuKind kind, bool tracks) => new(
        [new SoftIommuUnit(Unit) { Kind = kind, DirtyTracking = tracks }],
        [QemuNvme(disk, 1, Unit), QemuNvme(disk, 2, Unit), QemuNvme(disk, 3, Unit) with { Resettable = true }]);

    /// <summary>
    /// As the lab's, with QEMU's ids: without memory of its own, and only the last of a host can be reset, because each
    /// open of one that can waits 100 ms in Linux.
    /// </summary>
    private static SoftNvme QemuNvme(SoftDisk disk, int bus, string? unit) =>
        PlainNvme(disk, bus, unit) with
        {
            VendorId = 0x1b36, DeviceId = 0x0010, ControllerMemory = false, Resettable = false,
        };

    private static SoftNvme PlainNvme(SoftDisk disk, int bus, string? unit) =>
        Nvme(disk, bus, unit) with { Migration = false, P2P = false, PreCopy = false };

    private static SoftNvme Nvme(SoftDisk disk, int bus, string? unit) => new($"0000:{bus:x2}:00.0", unit, disk);
}
