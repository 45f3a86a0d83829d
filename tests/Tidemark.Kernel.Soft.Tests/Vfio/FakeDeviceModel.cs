using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

/// <summary>
/// A device that does nothing but write down what it is told, and has state that is easy to recognise.
/// </summary>
internal sealed class FakeDeviceModel : SoftDeviceModel
{
    public const uint Vectors = 4;
    public const ulong Bar0Length = 0x4000;
    public const ulong ConfigLength = 0x1000;

    public List<string> Calls { get; } = [];

    public byte[] Bar0 { get; } = new byte[Bar0Length];

    public Action?[] Raise { get; } = new Action?[Vectors];

    public Queue<byte[]> Changes { get; } = new();

    public byte[]? Loaded { get; private set; }

    /// <summary>Empty: saving fails.</summary>
    public byte[] Final { get; set; } = "FINAL"u8.ToArray();

    public Errno LoadAnswer { get; set; } = Errno.Success;

    public override IReadOnlyList<SoftRegion> Regions { get; } =
    [
        new SoftRegion(Bar0Length, Readable: true, Writable: true,
            [new SoftMmapArea(0x2000, 0x1000, 77, 0x10000), new SoftMmapArea(0x3000, 0x1000, 77, 0x20000)]),
        new SoftRegion(0, false, false, []),
        new SoftRegion(0x1000, true, true, [new SoftMmapArea(0, 0x1000, 78, 0)]),
        new SoftRegion(0, false, false, []),
        new SoftRegion(0, false, false, []),
        new SoftRegion(0, false, false, []),
        new SoftRegion(0x800, true, false, []),
        new SoftRegion(ConfigLength, true, true, []),
    ];

    public override uint MsixVectors => Vectors;

    public override (uint Bar, ulong Offset, ulong ByteLength) MsixTable => (0, 0x1000, 0x40);

    public override bool HasIntx => Intx is not null;

    public override bool IsIntxAsserted => Intx == true;

    /// <summary>Whether the pin is held; null: there is none.</summary>
    public bool? Intx { get; set; }

    public Action? AssertIntx { get; private set; }

    public override void SetIntx(Action? assert) => AssertIntx = assert;

    public override ulong FinalStateSize => 0x123;

    public override ulong MaximumStateSize => 64;

    public override Errno ReadRegion(uint region, ulong offset, Span<byte> into)
    {
        Calls.Add($"Read {region} {offset:x} {into.Length:x}");
        into.Fill((byte)region);
        if (region == 0)
            Bar0.AsSpan((int)offset, into.Length).CopyTo(into);
        return Errno.Success;
    }

    public override Errno WriteRegion(uint region, ulong offset, ReadOnlySpan<byte> from)
    {
        Calls.Add($"Write {region} {offset:x} {from.Length:x}");
        if (region == 0)
            from.CopyTo(Bar0.AsSpan((int)offset));
        return Errno.Success;
    }

    public override void SetInterrupt(uint vector, Action? raise) => Raise[vector] = raise;

    public override void Reset(bool keepsConfig)
    {
        Calls.Add("Reset");
        Array.Clear(Raise);
    }

    public override void Run() => Calls.Add("Run");

    public override void Quiesce() => Calls.Add("Quiesce");

    public override void Freeze() => Calls.Add("Freeze");

    public override void Unfreeze() => Calls.Add("Unfreeze");

    public override byte[] SaveInitial()
    {
        Calls.Add("SaveInitial");
        return "INITIAL"u8.ToArray();
    }

    public override byte[] SaveChanged() => Changes.TryDequeue(out byte[]? changed) ? changed : [];

    public override byte[] SaveFinal()
    {
        Calls.Add("SaveFinal");
        return Final;
    }

    public override Errno LoadState(ReadOnlySpan<byte> stream)
    {
        Calls.Add($"Load {Encoding.ASCII.GetString(stream)}");
        Loaded = stream.ToArray();
        return LoadAnswer;
    }

    public override void Dispose() => Calls.Add("Dispose");
}
