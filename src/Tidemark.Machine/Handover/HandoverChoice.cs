using System.Globalization;
using Tidemark.Abi;
using Tidemark.Nvme;
using Tidemark.Vfio;

namespace Tidemark.Machine.Handover;

/// <summary>A user's wish about how a device moves (<c>handover</c>).</summary>
public enum HandoverWish
{
    /// <summary>By migration states if the device has them, else with the help of its driver.</summary>
    Auto,

    /// <summary>By migration states; a device without them can not migrate.</summary>
    States,

    /// <summary>With the help of its driver, also when the device has migration states.</summary>
    DriverAssisted,
}

/// <summary>How a device moves.</summary>
public enum HandoverKind
{
    /// <summary>It can not.</summary>
    None,

    /// <summary>Its VFIO driver saves and restores it (VFIO_DEVICE_FEATURE_MIGRATION).</summary>
    States,

    /// <summary>Its driver in user space quiesces it and sets it up again on the other side.</summary>
    DriverAssisted,
}

/// <summary>How one device moves and why so.</summary>
/// <param name="Reason">One sentence for users.</param>
public sealed record HandoverChoice(HandoverKind Kind, string Reason)
{
    public override string ToString() => $"{(Kind == HandoverKind.DriverAssisted ? "driver-assisted" : Kind == HandoverKind.States ? "states" : "none")}: {Reason}";

    /// <param name="lack">Why the device has no migration states, or null when it has.</param>
    /// <param name="driverLack">Why no driver here would help, or null when one would.</param>
    public static HandoverChoice Choose(string name, HandoverWish wish, string? lack, string? driverLack)
    {
        if (lack is null && wish != HandoverWish.DriverAssisted)
            return new HandoverChoice(HandoverKind.States, $"The VFIO driver of {name} saves and restores it.");
        if (wish == HandoverWish.States)
            return new HandoverChoice(HandoverKind.None, $"{name} is to move by migration states (handover=states), and its VFIO driver has none: {lack}.");
        string states = lack is null ? "driver-assisted is what was asked for" : $"no migration states: {lack}";
        return driverLack is null
            ? new HandoverChoice(HandoverKind.DriverAssisted, $"The workload is the driver of {name} and sets it up again on the other side; {states}.")
            : new HandoverChoice(HandoverKind.None, $"Its VFIO driver says so: {lack ?? "it has migration states, but driver-assisted was asked for"}. No driver here helps it: {driverLack}.");
    }

    /// <summary>
    /// Why our NVMe driver can not drive a function, or null when it can: by its class code, which touches nothing.
    /// </summary>
    /// <exception cref="Kernel.KernelException">The device does not answer.</exception>
    public static string? FindNvmeLack(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        device.GetRegion(VfioPciRegionIndex.Config).Read(NvmePci.RevisionOffset, bytes);
        uint code = BitConverter.ToUInt32(bytes) >> 8;
        return code == NvmePci.ClassCode
            ? null
            : string.Create(CultureInfo.InvariantCulture, $"its class is 0x{code:x6}, and the workload drives NVMe controllers (0x{NvmePci.ClassCode:x6})");
    }
}
