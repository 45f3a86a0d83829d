using System.Text;

namespace Tidemark.Machine.Nvme;

/// <summary>A reader that goes on in another process of the host, while its controller works on.</summary>
public sealed partial class NvmeWorkload
{
    private const uint AdoptionMagic = 0x4144_4d54; // "TMDA"
    private const ushort AdoptionVersion = 1;

    /// <summary>
    /// Everything that another process needs to go on with the controller as it is; only while paused. Commands in flight
    /// stay in flight, and their completions wait in guest memory.
    /// </summary>
    public byte[] SaveForAdoption()
    {
        using var writer = new PartStateWriter(AdoptionMagic, AdoptionVersion);
        writer.Flag(_known);
        writer.Block(Encoding.ASCII.GetBytes(_driver.SerialNumber));
        writer.Block(Encoding.ASCII.GetBytes(_driver.ModelNumber));
        writer.Block(_driver.SaveState());
        WriteOwn(writer);
        return writer.ToArray();
    }

    /// <summary>Takes it, before <see cref="Start"/>; touches neither controller nor guest memory.</summary>
    /// <exception cref="NvmeException">The bytes are damaged or of a workload with other options; this one is not to be
    /// used.</exception>
    public void Adopt(ReadOnlySpan<byte> state)
    {
        var reader = new PartStateReader(state, AdoptionMagic, AdoptionVersion);
        bool known = reader.Flag();
        ReadOnlySpan<byte> serial = reader.Block(), model = reader.Block(), driver = reader.Block();
        if (reader.Failed || serial.Length > MaximumTextBytes || model.Length > MaximumTextBytes)
            throw NotThisWorkload();
        _driver.AdoptState(driver, Encoding.ASCII.GetString(serial), Encoding.ASCII.GetString(model));
        if (!TryReadOwn(ref reader))
            throw NotThisWorkload();
        _known = known;
        _halted = false;
    }
}
