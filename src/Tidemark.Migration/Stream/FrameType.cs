using System.Collections.Frozen;

namespace Tidemark.Migration.Stream;

/// <summary>Kinds of frames. Numbers are part of the format: never reused.</summary>
internal enum FrameType : ushort
{
    /// <summary>Nothing; shows that the sender lives.</summary>
    Ping = 1,

    /// <summary>Source: the machine and how it will be sent.</summary>
    Hello = 2,

    /// <summary>Destination: nothing stands against it.</summary>
    Accept = 3,

    /// <summary>Destination: what stands against it.</summary>
    Refuse = 4,

    /// <summary>Destination: all channels are there and all parts take state.</summary>
    Ready = 5,

    /// <summary>Source: a pass begins.</summary>
    PassBegin = 16,

    /// <summary>Channel: pages with content.</summary>
    Pages = 17,

    /// <summary>Channel: pages that are zero.</summary>
    ZeroPages = 18,

    /// <summary>Channel: this channel's share of the pass is out, with totals.</summary>
    PassEnd = 19,

    /// <summary>Channel, destination: everything up to the Mark or PassEnd is in memory, and what of it must come
    /// again.</summary>
    Ack = 20,

    /// <summary>Channel: say when you have everything up to here.</summary>
    Mark = 21,

    /// <summary>Channel: bytes of a part's state.</summary>
    PartState = 32,

    /// <summary>Channel: a part's state is complete.</summary>
    PartEnd = 33,

    /// <summary>Source: the machine is being stopped.</summary>
    SwitchoverBegin = 48,

    /// <summary>Source: memory and state are complete.</summary>
    AllSent = 49,

    /// <summary>Destination: the machine is complete and stopped.</summary>
    StateLoaded = 50,

    /// <summary>Source: are all parts ready for the stop, with what they were sent so far?</summary>
    SwitchoverRequest = 53,

    /// <summary>Destination: they are.</summary>
    SwitchoverReady = 54,

    /// <summary>Source: hash all guest memory.</summary>
    HashRequest = 51,

    /// <summary>Destination: hashes of consecutive pages.</summary>
    Hashes = 52,

    /// <summary>Source: run. The point of no return.</summary>
    Commit = 64,

    /// <summary>Destination: it runs.</summary>
    Committed = 65,

    /// <summary>Source: it has read Committed.</summary>
    Done = 66,

    /// <summary>Destination, to a Query: what became of the machine here.</summary>
    Fate = 67,

    /// <summary>Either: it failed here, and why.</summary>
    Abort = 80,

    /// <summary>Either: somebody cancelled.</summary>
    Cancel = 81,
}

/// <summary>Bounds of everything a peer can make this side hold.</summary>
internal static class FrameLimits
{
    public const int MaximumChannels = 64;

    /// <summary>LIMIT: as the contract of ISourceMachine.Description says.</summary>
    public const int DescriptionBytes = 64 * 1024;

    /// <summary>LIMIT: a sentence with evidence, not a log.</summary>
    public const int ReasonBytes = 4 * 1024;

    /// <summary>LIMIT: more obstacles than anybody reads at once.</summary>
    public const int Reasons = 64;

    /// <summary>LIMIT: far above what machines have; bounds the table in Hello.</summary>
    public const int Slots = 1024;

    /// <summary>LIMIT: large enough for full speed, small enough to hold a few.</summary>
    public const int PartStateBytes = 1024 * 1024;

    /// <summary>LIMIT: parts of one machine; bounds a part's index.</summary>
    public const int Parts = 4096;

    /// <summary>
    /// Pages with content in one frame: 256 KiB, which stays in a core's second-level cache between hash and send.
    /// </summary>
    public const int ContentPages = 64;

    /// <summary>LIMIT: runs in one Ack that must come again: as many as a batch of frames can have.</summary>
    public const int AgainRuns = 4096;

    /// <summary>Runs of zero pages in one frame.</summary>
    public const int ZeroRuns = 2048;

    /// <summary>Hashes in one frame; also the pages that one hashing thread takes at a time (64 MiB).</summary>
    public const int HashesPerFrame = 16 * 1024;

    /// <summary>Longest payload allowed for a type, or -1 for a type that does not exist.</summary>
    public static int PayloadLimit(FrameType type) => type switch
    {
        FrameType.Ping or FrameType.Accept or FrameType.Ready or FrameType.SwitchoverBegin or FrameType.Mark
            or FrameType.SwitchoverRequest or FrameType.SwitchoverReady or FrameType.Done => 0,
        FrameType.Hello => Messages.HelloFixedBytes + Slots * Messages.SlotBytes + DescriptionBytes,
        FrameType.Refuse => 4 + Reasons * (4 + ReasonBytes),
        FrameType.PassBegin or FrameType.AllSent => 16,
        FrameType.Ack => Messages.AckHeadBytes + AgainRuns * PageFrame.RunBytes,
        FrameType.StateLoaded => 4 + Parts * 8,
        FrameType.Pages => PageFrame.HeadBytes(ContentPages) + ContentPages * Memory.GuestPage.Size,
        FrameType.ZeroPages => PageFrame.HeadBytes(ZeroRuns),
        FrameType.PassEnd => Messages.PassEndBytes,
        FrameType.PartState => Messages.PartHeadBytes + PartStateBytes,
        FrameType.PartEnd => Messages.PartHeadBytes,
        FrameType.HashRequest => 8,
        FrameType.Hashes => 16 + HashesPerFrame * 8,
        FrameType.Commit => 16,
        FrameType.Committed => 24,
        FrameType.Fate => 4,
        FrameType.Abort or FrameType.Cancel => ReasonBytes,
        _ => -1,
    };
}

/// <summary>Names of frames, for the errors that may be about one.</summary>
internal static class FrameTypes
{
    private static readonly FrozenDictionary<FrameType, string> s_names = Enum.GetValues<FrameType>().ToFrozenDictionary(type => type, type => type.ToString());

    /// <summary>As <c>ToString</c>, but for each frame on a channel, where nothing may be allocated.</summary>
    public static string Name(this FrameType type) => s_names.TryGetValue(type, out string? name) ? name : type.ToString();
}
