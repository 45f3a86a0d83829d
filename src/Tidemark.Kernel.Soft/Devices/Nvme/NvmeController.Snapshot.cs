using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>The parsing half of the state stream: hostile bytes in, a checked value out.</summary>
internal sealed partial class NvmeController
{
    private sealed class Snapshot
    {
        private uint _seen;

        public uint Configuration { get; private set; }
        public uint Status { get; private set; }
        public uint AdminQueueAttributes { get; private set; }
        public ulong AdminSubmissionQueue { get; private set; }
        public ulong AdminCompletionQueue { get; private set; }
        public ulong ControllerMemorySpace { get; private set; }
        public bool Ready { get; private set; }
        public bool Fatal { get; private set; }
        public byte[] PciConfig { get; private set; } = [];
        public byte[] MsixTable { get; private set; } = [];
        public UInt128 MsixPending { get; private set; }
        public NvmeCompletionQueue?[] CompletionQueues { get; private set; } = [];
        public NvmeSubmissionQueue?[] SubmissionQueues { get; private set; } = [];
        public List<NvmeCommand> Commands { get; } = [];
        public uint[] Features { get; } = new uint[FeatureCount];
        public bool ErrorEventsMasked { get; private set; }
        public UInt128 Interrupts { get; private set; }
        public List<ushort> EventRequests { get; } = [];
        public List<uint> Events { get; } = [];
        public byte[] ControllerMemory { get; private set; } = [];
        public ulong[] Counters { get; } = new ulong[5];

        /// <summary>True: every record was there, whole and consistent.</summary>
        public bool TryParse(ReadOnlySpan<byte> stream, ReadOnlySpan<byte> identity, NvmePciConfig config, int endBytes)
        {
            var reader = new NvmeStateReader(stream);
            while (reader.TryRecord(out NvmeRecord record, out ReadOnlySpan<byte> payload))
            {
                if (record == NvmeRecord.End)
                    return payload.Length == endBytes && reader.IsComplete && _seen == AllRecords && IsConsistent();
                // Nothing is taken from a stream that does not begin with who it is.
                if (record != NvmeRecord.Identity && (_seen & Bit(NvmeRecord.Identity)) == 0)
                    return false;
                bool good = record == NvmeRecord.Identity
                    ? payload.SequenceEqual(identity)
                    : TryTake(record, payload, config);
                if (!good)
                    return false;
                _seen |= Bit(record);
            }

            return false;
        }

        private static uint AllRecords =>
            Bit(NvmeRecord.Identity) | Bit(NvmeRecord.Registers) | Bit(NvmeRecord.PciConfig) | Bit(NvmeRecord.Msix)
            | Bit(NvmeRecord.Queues) | Bit(NvmeRecord.Commands) | Bit(NvmeRecord.Features) | Bit(NvmeRecord.Events)
            | Bit(NvmeRecord.ControllerMemory) | Bit(NvmeRecord.Counters);

        private static uint Bit(NvmeRecord record) => 1u << (int)record;

        private bool TryTake(NvmeRecord record, ReadOnlySpan<byte> payload, NvmePciConfig config)
        {
            var reader = new NvmeStateReader(payload);
            switch (record)
            {
                case NvmeRecord.Registers:
                    TakeRegisters(ref reader);
                    break;
                case NvmeRecord.PciConfig when config.CanLoad(payload):
                    PciConfig = reader.Raw(payload.Length).ToArray();
                    break;
                case NvmeRecord.Msix:
                    MsixPending = reader.U128();
                    MsixTable = reader.Raw((int)NvmeLimits.Vectors * MsixCapability.EntryByteLength).ToArray();
                    break;
                case NvmeRecord.Queues:
                    return TryTakeQueues(payload);
                case NvmeRecord.Commands:
                    return TryTakeCommands(payload);
                case NvmeRecord.Features:
                    for (int index = 0; index < FeatureCount; index++)
                        Features[index] = reader.U32();
                    break;
                case NvmeRecord.Events:
                    TakeEvents(ref reader);
                    break;
                case NvmeRecord.ControllerMemory:
                    ControllerMemory = reader.Raw((int)NvmeBar.ControllerMemoryByteLength).ToArray();
                    break;
                case NvmeRecord.Counters:
                    for (int index = 0; index < Counters.Length; index++)
                        Counters[index] = reader.U64();
                    break;
                default:
                    return false;
            }

            return reader.IsComplete;
        }

        private void TakeRegisters(ref NvmeStateReader reader)
        {
            Configuration = reader.U32();
            Status = reader.U32();
            AdminQueueAttributes = reader.U32();
            AdminSubmissionQueue = reader.U64();
            AdminCompletionQueue = reader.U64();
            ControllerMemorySpace = reader.U64();
            Ready = reader.Flag();
            Fatal = reader.Flag();
        }

        private bool TryTakeQueues(ReadOnlySpan<byte> payload)
        {
            CompletionQueues = new NvmeCompletionQueue?[NvmeLimits.IOQueues + 1];
            SubmissionQueues = new NvmeSubmissionQueue?[NvmeLimits.IOQueues + 1];
            var reader = new NvmeStateReader(payload);
            while (!reader.IsComplete)
            {
                byte kind = reader.U8();
                ushort id = reader.U16();
                ulong address = reader.U64();
                uint entries = reader.U32();
                uint most = id == 0 ? 4096 : NvmeLimits.QueueEntries;
                if (reader.Failed || id > NvmeLimits.IOQueues || entries < 2 || entries > most
                    || address % PrpGeometry.PageByteLength != 0)
                    return false;
                bool good = kind switch
                {
                    1 => TryTakeCompletionQueue(ref reader, id, address, entries),
                    2 => TryTakeSubmissionQueue(ref reader, id, address, entries),
                    _ => false,
                };
                if (!good || reader.Failed)
                    return false;
            }

            return true;
        }

        private bool TryTakeCompletionQueue(ref NvmeStateReader reader, ushort id, ulong address, uint entries)
        {
            if (CompletionQueues[id] is not null)
                return false;
            var queue = new NvmeCompletionQueue
            {
                Id = id,
                Address = address,
                Entries = entries,
                Vector = reader.U16(),
                InterruptsEnabled = reader.Flag(),
                Head = reader.U32(),
                Tail = reader.U32(),
                Phase = reader.Flag(),
                Halted = reader.Flag(),
            };
            CompletionQueues[id] = queue;
            return queue.Vector < NvmeLimits.Vectors && queue.Head < entries && queue.Tail < entries;
        }

        private bool TryTakeSubmissionQueue(ref NvmeStateReader reader, ushort id, ulong address, uint entries)
        {
            if (SubmissionQueues[id] is not null)
                return false;
            var queue = new NvmeSubmissionQueue
            {
                Id = id,
                Address = address,
                Entries = entries,
                CompletionQueue = reader.U16(),
                Head = reader.U32(),
                Tail = reader.U32(),
                Halted = reader.Flag(),
            };
            SubmissionQueues[id] = queue;
            return queue.CompletionQueue <= NvmeLimits.IOQueues && (queue.CompletionQueue == 0) == (id == 0)
                && queue.Head < entries && queue.Tail < entries;
        }

        private bool TryTakeCommands(ReadOnlySpan<byte> payload)
        {
            Commands.Clear();
            var reader = new NvmeStateReader(payload);
            Span<int> perQueue = stackalloc int[NvmeLimits.IOQueues + 1];
            perQueue.Clear();
            while (!reader.IsComplete)
            {
                ushort submission = reader.U16();
                ushort completion = reader.U16();
                var command = new NvmeCommand
                {
                    SubmissionQueue = submission,
                    CompletionQueue = completion,
                    Entry = SubmissionEntry.Parse(reader.Raw(SubmissionEntry.ByteLength)),
                    DoneBytes = reader.U32(),
                    Finished = reader.Flag(),
                    Parked = reader.Flag(),
                    Status = new NvmeStatus(reader.U16()),
                    Result = reader.U32(),
                };
                // Events and aborts that wait to be posted come on top of what was fetched.
                const int Most = NvmeLimits.InFlightPerQueue + NvmeLimits.EventRequests;
                if (reader.Failed || submission > NvmeLimits.IOQueues || completion > NvmeLimits.IOQueues
                    || ++perQueue[submission] > Most || command.DoneBytes > NvmeLimits.TransferBytes)
                    return false;
                Commands.Add(command);
            }

            return true;
        }

        private void TakeEvents(ref NvmeStateReader reader)
        {
            EventRequests.Clear();
            Events.Clear();
            ErrorEventsMasked = reader.Flag();
            Interrupts = reader.U128();
            int requests = Math.Min((int)reader.U8(), NvmeLimits.EventRequests);
            for (int index = 0; index < requests; index++)
                EventRequests.Add(reader.U16());
            int events = Math.Min((int)reader.U8(), NvmeLimits.WaitingEvents);
            for (int index = 0; index < events; index++)
                Events.Add(reader.U32());
        }

        /// <summary>What single records can not say about each other.</summary>
        private bool IsConsistent()
        {
            if ((Interrupts | MsixPending) >> (int)NvmeLimits.Vectors != UInt128.Zero)
                return false;
            foreach (NvmeSubmissionQueue? queue in SubmissionQueues)
            {
                if (queue is not null && CompletionQueues[queue.CompletionQueue] is null)
                    return false;
            }

            bool hasAdmin = SubmissionQueues[0] is not null && CompletionQueues[0] is not null;
            bool enabled = new ControllerConfiguration(Configuration).Enabled;
            bool ready = new ControllerStatus(Status).Ready;
            bool fatal = new ControllerStatus(Status).Fatal;
            int queues = CountQueues();
            return Ready == ready && Fatal == fatal && Ready == hasAdmin && (!Ready || enabled)
                && (Ready || queues == 0 && Commands.Count == 0);
        }

        private int CountQueues()
        {
            int count = 0;
            foreach (NvmeSubmissionQueue? queue in SubmissionQueues)
                count += queue is null ? 0 : 1;
            foreach (NvmeCompletionQueue? queue in CompletionQueues)
                count += queue is null ? 0 : 1;
            return count;
        }
    }
}
