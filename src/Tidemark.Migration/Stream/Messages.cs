using System.Text;
using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>The first thing a source says about its machine.</summary>
internal sealed record Hello(
    int Channels, bool Verify, ulong SpanPages, IReadOnlyList<PageRun> Slots, int PartCount, ReadOnlyMemory<byte> Description)
{
    /// <summary>Pages may come compressed with zstd.</summary>
    public bool Compresses { get; init; }

    /// <summary>0, or the first pass that is still to come when a lost connection is taken up again.</summary>
    public uint FirstPass { get; init; }

    /// <summary>How long the source would try again if the connection were lost.</summary>
    public TimeSpan RetryFor { get; init; }
}

/// <summary>One channel's totals of one pass.</summary>
internal readonly record struct PassTotals(uint Pass, ulong Frames, ulong SentPages, ulong ZeroPages);

/// <summary>Payloads of the small frames. Each Read refuses what its Write can not have made.</summary>
internal static class Messages
{
    public const int HelloFixedBytes = 40;
    public const int SlotBytes = 16;
    public const int PassEndBytes = 32;
    public const int AckHeadBytes = 8;
    public const int PartHeadBytes = 16;

    public static byte[] WriteHello(Hello hello)
    {
        var bytes = new byte[HelloFixedBytes + hello.Slots.Count * SlotBytes + hello.Description.Length];
        var writer = new PayloadWriter(bytes);
        writer.U32((uint)hello.Channels);
        writer.U32((hello.Verify ? 1u : 0) | (hello.Compresses ? 2u : 0));
        writer.U64(hello.SpanPages);
        writer.U32((uint)hello.Slots.Count);
        writer.U32((uint)hello.PartCount);
        writer.U32((uint)hello.Description.Length);
        writer.U32(hello.FirstPass);
        writer.U32((uint)Math.Min(hello.RetryFor.TotalMilliseconds, uint.MaxValue));
        writer.U32(0);
        foreach (PageRun slot in hello.Slots)
        {
            writer.U64(slot.FirstPage);
            writer.U64(slot.Count);
        }

        writer.Bytes(hello.Description.Span);
        return bytes;
    }

    public static Hello ReadHello(PayloadReader reader)
    {
        uint channels = reader.U32();
        if (channels is 0 or > FrameLimits.MaximumChannels)
            throw reader.Bad($"{channels} channels are asked for, 1 to {FrameLimits.MaximumChannels} are possible");
        uint flags = reader.U32();
        ulong spanPages = reader.U64();
        uint slotCount = reader.U32();
        uint partCount = reader.U32();
        uint descriptionLength = reader.U32();
        uint firstPass = reader.U32();
        uint retryMilliseconds = reader.U32();
        if (flags > 3 || reader.U32() != 0)
            throw reader.Bad("it sets flags that version 1 does not have");
        if (slotCount > FrameLimits.Slots || partCount > FrameLimits.Parts || descriptionLength > FrameLimits.DescriptionBytes)
            throw reader.Bad("a count in it is above its limit");
        var slots = new PageRun[slotCount];
        for (int index = 0; index < slots.Length; index++)
            slots[index] = new PageRun(reader.U64(), reader.U64());
        byte[] description = reader.Bytes(descriptionLength).ToArray();
        reader.End();
        return new Hello((int)channels, (flags & 1) != 0, spanPages, slots, (int)partCount, description)
        {
            Compresses = (flags & 2) != 0,
            FirstPass = firstPass,
            RetryFor = TimeSpan.FromMilliseconds(retryMilliseconds),
        };
    }

    public static byte[] WriteReasons(IReadOnlyList<string> reasons)
    {
        int count = Math.Min(reasons.Count, FrameLimits.Reasons);
        var bytes = new byte[4 + count * (4 + FrameLimits.ReasonBytes)];
        var writer = new PayloadWriter(bytes);
        writer.U32((uint)count);
        for (int index = 0; index < count; index++)
        {
            byte[] text = WriteReason(reasons[index]);
            writer.U32((uint)text.Length);
            writer.Bytes(text);
        }

        return bytes[..writer.Length];
    }

    public static IReadOnlyList<string> ReadReasons(PayloadReader reader)
    {
        uint count = reader.U32();
        if (count > FrameLimits.Reasons)
            throw reader.Bad($"it has {count} reasons, at most {FrameLimits.Reasons} are possible");
        var reasons = new string[count];
        for (int index = 0; index < reasons.Length; index++)
        {
            uint length = reader.U32();
            if (length > FrameLimits.ReasonBytes)
                throw reader.Bad("a reason is too long");
            reasons[index] = ReadReason(reader.Bytes(length));
        }

        reader.End();
        return reasons;
    }

    /// <summary>UTF-8, cut at the limit.</summary>
    public static byte[] WriteReason(string reason)
    {
        byte[] text = Encoding.UTF8.GetBytes(reason);
        return text.Length <= FrameLimits.ReasonBytes ? text : text[..FrameLimits.ReasonBytes];
    }

    /// <summary>A peer's words for a terminal: control characters do not get through.</summary>
    public static string ReadReason(ReadOnlySpan<byte> bytes)
    {
        char[] text = Encoding.UTF8.GetString(bytes).ToCharArray();
        for (int index = 0; index < text.Length; index++)
        {
            if (char.IsControl(text[index]))
                text[index] = ' ';
        }

        return new string(text);
    }

    public static void WritePassEnd(ref PayloadWriter writer, PassTotals totals)
    {
        writer.U32(totals.Pass);
        writer.U32(0);
        writer.U64(totals.Frames);
        writer.U64(totals.SentPages);
        writer.U64(totals.ZeroPages);
    }

    public static PassTotals ReadPassEnd(PayloadReader reader)
    {
        uint pass = reader.U32();
        if (reader.U32() != 0)
            throw reader.Bad("it sets bits that version 1 does not have");
        var totals = new PassTotals(pass, reader.U64(), reader.U64(), reader.U64());
        reader.End();
        return totals;
    }

    /// <summary>
    /// Two numbers in 16 bytes: PassBegin (pass, pages), AllSent (passes, parts), Commit (passes, 0).
    /// </summary>
    public static void WritePair(Span<byte> into, ulong first, ulong second)
    {
        var writer = new PayloadWriter(into);
        writer.U64(first);
        writer.U64(second);
    }

    public static void WriteFate(Span<byte> into, MachineFate fate) => new PayloadWriter(into).U32((uint)fate);

    public static MachineFate ReadFate(FrameReader frames, FrameHeader header)
    {
        Span<byte> payload = stackalloc byte[4];
        ulong offset = frames.Offset;
        frames.ReadPayload(header, payload[..header.PayloadLength]);
        var reader = new PayloadReader(payload[..header.PayloadLength], nameof(FrameType.Fate), offset);
        // Compared before it becomes an enum, whose numbers are signed.
        uint fate = reader.U32();
        return fate <= (uint)MachineFate.BrokenThere ? (MachineFate)fate : throw reader.Bad($"there is no fate {fate}");
    }

    /// <summary>What each part took to load.</summary>
    public static byte[] WriteTimes(IReadOnlyList<TimeSpan> times)
    {
        var bytes = new byte[4 + times.Count * 8];
        var writer = new PayloadWriter(bytes);
        writer.U32((uint)times.Count);
        foreach (TimeSpan time in times)
            writer.U64((ulong)time.Ticks);
        return bytes;
    }

    public static IReadOnlyList<TimeSpan> ReadTimes(PayloadReader reader, int count)
    {
        uint stated = reader.U32();
        if (stated != (uint)count)
            throw reader.Bad($"it speaks of {stated} parts, there are {count}");
        var times = new TimeSpan[count];
        for (int index = 0; index < count; index++)
            times[index] = ReadTime(ref reader);
        reader.End();
        return times;
    }

    /// <summary>In ticks of 100 ns; what is above an hour is an hour.</summary>
    public static TimeSpan ReadTime(ref PayloadReader reader) =>
        TimeSpan.FromTicks((long)Math.Min(reader.U64(), (ulong)TimeSpan.TicksPerHour));

    public static (ulong First, ulong Second) ReadPair(PayloadReader reader)
    {
        var pair = (reader.U64(), reader.U64());
        reader.End();
        return pair;
    }
}
