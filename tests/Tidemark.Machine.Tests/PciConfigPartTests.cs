using Tidemark.Abi;
using Tidemark.Machine.Assignment;
using Tidemark.Nvme;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

/// <summary>
/// What a guest wrote to a device's configuration space moves beside the device's own state, which on Linux has none of it.
/// </summary>
public sealed class PciConfigPartTests : IDisposable
{
    private const ulong BarAt = NvmePci.Bar0Offset + 4;

    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void What_a_guest_wrote_to_the_configuration_space_is_there_on_the_other_side()
    {
        VfioRegion there = Config(_rig.Assemble(_rig.Describe(1)), out PciConfigPart source);
        VfioRegion here = Config(_rig.Assemble(_rig.Describe(1)), out PciConfigPart destination);
        there.Write(NvmePci.CommandOffset, [NvmePci.CommandMemory | NvmePci.CommandBusMaster, 4]);
        there.Write32(BarAt, 0x12);
        there.Write(NvmePci.CacheLineOffset, [16]);
        there.Write(NvmePci.InterruptLineOffset, [11]);
        Assert.NotEqual(there.Read32(NvmePci.CommandOffset), here.Read32(NvmePci.CommandOffset));
        byte[] state = Save(source);
        Load(destination, state);
        foreach (ulong offset in (ulong[])[NvmePci.CommandOffset, NvmePci.CacheLineOffset, BarAt, NvmePci.InterruptLineOffset])
            Assert.Equal(there.Read32(offset & ~3UL), here.Read32(offset & ~3UL));
        Assert.Equal(0x12u, here.Read32(BarAt));
    }

    [Fact]
    public void A_device_whose_own_state_has_no_configuration_moves_and_may_do_DMA()
    {
        // A VFIO driver as those of Linux: its state leaves the header to whoever owns the machine.
        GuestMachine source = _rig.AssembleRunning(_rig.Describe(1));
        VfioRegion here = Config(_rig.Assemble(_rig.Describe(1)), out PciConfigPart destination);
        Assert.Equal(0, (int)(here.Read32(NvmePci.CommandOffset) & NvmePci.CommandBusMaster));
        source.StopWorkload();
        Load(destination, Save(source.Devices[0].Assigned.Configuration!));
        Assert.NotEqual(0, (int)(here.Read32(NvmePci.CommandOffset) & NvmePci.CommandBusMaster));
    }

    [Fact]
    public void Another_kind_of_device_and_damaged_bytes_are_refused_and_nothing_is_written()
    {
        Config(_rig.Assemble(_rig.Describe(1)), out PciConfigPart source);
        VfioRegion here = Config(_rig.Assemble(_rig.Describe(1)), out PciConfigPart destination);
        byte[] good = Save(source);
        uint command = here.Read32(NvmePci.CommandOffset);
        // Behind mark, version and length lies the header. Its vendor, class and kind:
        const int Header = 10;
        foreach (int at in (int[])[Header, Header + 2, Header + 11, Header + 14])
        {
            byte[] other = [.. good];
            other[at] ^= 1;
            other[Header + 4] ^= 4;
            Assert.Contains("another kind", Assert.Throws<InvalidDataException>(() => Load(destination, other)).Message, StringComparison.Ordinal);
            Assert.Equal(command, here.Read32(NvmePci.CommandOffset));
        }

        for (int length = 0; length < good.Length; length++)
            Assert.Throws<InvalidDataException>(() => Load(destination, good[..length]));
        Assert.Throws<InvalidDataException>(() => destination.WriteState(new byte[good.Length + 1]));
        // A revision may differ.
        good[Header + 8] ^= 1;
        Load(destination, good);
    }

    [Fact]
    public void It_goes_with_devices_that_move_by_states_only_and_has_nothing_to_say_before_the_stop()
    {
        GuestMachine machine = _rig.Assemble(_rig.Describe(2, (number, device, hardware) => (device, hardware with { Migration = number == 0 })));
        Assert.Equal(["nvme0", "nvme0 configuration", "nvme1", "workload"], machine.Parts.Select(part => part.Name));
        PciConfigPart part = machine.Devices[0].Assigned.Configuration!;
        part.BeginSave();
        Assert.Equal(0, part.ReadState(new byte[100]));
    }

    private static VfioRegion Config(GuestMachine machine, out PciConfigPart part)
    {
        part = machine.Devices[0].Assigned.Configuration!;
        return machine.Devices[0].Assigned.Device.GetRegion(VfioPciRegionIndex.Config);
    }

    private static byte[] Save(PciConfigPart part)
    {
        part.BeginSave();
        part.Stop();
        var state = new List<byte>();
        var buffer = new byte[7];
        for (int count = part.ReadState(buffer); count > 0; count = part.ReadState(buffer))
            state.AddRange(buffer[..count]);
        return [.. state];
    }

    private static void Load(PciConfigPart part, byte[] state)
    {
        part.BeginLoad();
        part.WriteState(state);
        part.EndLoad();
    }
}
