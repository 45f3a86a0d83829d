using System.Globalization;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

internal sealed partial class SourceRun
{
    /// <summary>LIMIT: enough to see a pattern.</summary>
    private const int FirstLostPages = 16;

    /// <summary>LIMIT: enough to tell whose writes were missed.</summary>
    private const int MaximumLostRuns = 4096;

    private readonly List<PageRun> _lostRuns = [];

    /// <summary>
    /// Compares all guest memory with the destination's. Both sides hash at the same time; the hashes of the faster
    /// side
    /// wait here (8 bytes a page at worst).
    /// </summary>
    private void VerifyMemory()
    {
        if (!_options.Verify)
            return;
        Begin(MigrationPhase.Verify);
        var pairing = new HashPairing();
        Span<byte> request = stackalloc byte[8];
        new PayloadWriter(request).U64(FrameLimits.HashesPerFrame);
        Link.Writer.Send(FrameType.HashRequest, request);
        using (var hasher = new MemoryHasher(_machine.Memory, pairing.Put, Link.Fail))
        {
            Dictionary<ulong, int> chunks = hasher.Chunks.Select((chunk, index) => (chunk.FirstPage, index))
                .ToDictionary(pair => pair.FirstPage, pair => pair.index);
            _lostPages = 0;
            while (chunks.Count > 0)
            {
                using ControlFrame frame = Link.Expect(FrameType.Hashes, _cancel);
                PayloadReader reader = frame.Reader;
                ulong first = reader.U64();
                ulong count = reader.U64();
                if (!chunks.Remove(first, out int index) || hasher.Chunks[index].Count != count || (ulong)reader.Left != count * 8)
                    throw reader.Bad($"{count} hashes at page 0x{first:x} were not asked for");
                Compare(first, pairing.Take(index, Link, _cancel), reader);
            }
        }

        _downtime.LeaveOut();
        if (_lostPages > 0)
        {
            string pages = string.Join(", ", _firstLostPages.Select(page => string.Create(CultureInfo.InvariantCulture, $"0x{page:x}")));
            throw new MigrationFailedException(
                $"{_lostPages} guest pages differ between source and destination after the stop (first: {pages}): "
                    + $"writes were not tracked or not sent.",
                "memory-verification");
        }

        Decided($"Verified: all {Words.Of(_machine.Memory.ByteLength >> GuestPage.Shift)} guest pages are equal "
            + $"on both sides.");
    }

    private void Compare(ulong firstPage, ulong[] here, PayloadReader there)
    {
        for (int page = 0; page < here.Length; page++)
        {
            if (there.U64() == here[page])
                continue;
            _lostPages++;
            if (_firstLostPages.Count < FirstLostPages)
                _firstLostPages.Add(firstPage + (ulong)page);
            NoteLost(firstPage + (ulong)page);
        }
    }

    private void NoteLost(ulong page)
    {
        if (_lostRuns.Count > 0 && _lostRuns[^1] is { } last && last.FirstPage + last.Count == page)
            _lostRuns[^1] = last with { Count = last.Count + 1 };
        else if (_lostRuns.Count < MaximumLostRuns)
            _lostRuns.Add(new PageRun(page, 1));
    }

    /// <summary>Keeps hashes of this side until the other side's arrive.</summary>
    private sealed class HashPairing
    {
        private readonly object _gate = new();
        private readonly Dictionary<int, ulong[]> _here = [];

        public void Put(int index, PageRun chunk, ReadOnlySpan<ulong> hashes)
        {
            lock (_gate)
            {
                _here.Add(index, hashes.ToArray());
                Monitor.PulseAll(_gate);
            }
        }

        public ulong[] Take(int index, ControlLink link, CancellationToken cancel)
        {
            lock (_gate)
            {
                ulong[]? hashes;
                while (!_here.Remove(index, out hashes))
                {
                    cancel.ThrowIfCancellationRequested();
                    link.ThrowIfFaulted();
                    Monitor.Wait(_gate, 50);
                }

                return hashes;
            }
        }
    }
}
