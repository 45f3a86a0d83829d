using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// The events of one type of a vIOMMU. Its descriptor keeps it from being destroyed. Guarded by the context's lock.
/// </summary>
/// <remarks>
/// Each event has the next number. When the queue is full a marker "events were lost" takes the number instead; it is
/// always last, and whatever comes next replaces it, for the gap in the numbers tells the same.
/// </remarks>
internal sealed class EventQueue : IommuObject
{
    private readonly LinkedList<VirtualEvent> _delivered = [];
    private readonly Viommu _viommu;
    private readonly uint _depth;
    private uint _events;
    private uint _next;

    /// <param name="depth">Events that wait at most.</param>
    public EventQueue(IommufdContext context, Viommu viommu, IommuVeventqType type, uint depth)
    {
        Context = context;
        _viommu = viommu;
        Type = type;
        _depth = depth;
        viommu.Users++;
        viommu.EventQueues.Add(this);
    }

    public IommufdContext Context { get; }

    public IommuVeventqType Type { get; }

    /// <summary>The oldest, which stays; null: none.</summary>
    public VirtualEvent? Oldest => _delivered.First?.Value;

    public void Report(uint content)
    {
        bool lost = _events == _depth;
        if (_delivered.Last?.Value.Content is null && _delivered.Count != 0)
            _delivered.RemoveLast();
        _delivered.AddLast(new VirtualEvent(_next, lost ? null : content));
        _next = (_next + 1) & int.MaxValue;
        if (!lost)
            _events++;
    }

    public void RemoveOldest()
    {
        if (_delivered.First!.Value.Content is not null)
            _events--;
        _delivered.RemoveFirst();
    }

    public override void Destroy()
    {
        _viommu.EventQueues.Remove(this);
        _viommu.Users--;
    }
}

/// <summary>An event of the test domain.</summary>
/// <param name="Content">The guest's number of the device; null: events were lost.</param>
internal sealed record VirtualEvent(uint Sequence, uint? Content);

/// <summary>The descriptor of an <see cref="EventQueue"/>: as many events are read as fit, each after its header.</summary>
internal sealed class EventQueueFile(EventQueue queue) : SoftFile
{
    private const int HeaderBytes = 8;
    private const int ContentBytes = 4;

    public override string Kind => "iommufd-vevent";

    public override SyscallResult Read(Span<byte> buffer)
    {
        if (buffer.Length < HeaderBytes)
            return SyscallResult.Fail(Errno.EINVAL);
        lock (queue.Context.Gate)
        {
            int done = 0;
            while (queue.Oldest is VirtualEvent next)
            {
                int length = next.Content is null ? HeaderBytes : HeaderBytes + ContentBytes;
                if (buffer.Length - done < length)
                    return done == 0 ? SyscallResult.Fail(Errno.EINVAL) : SyscallResult.Ok(done);
                IommuVeventqFlags flags = next.Content is null ? IommuVeventqFlags.LostEvents : IommuVeventqFlags.None;
                BinaryPrimitives.WriteUInt32LittleEndian(buffer[done..], (uint)flags);
                BinaryPrimitives.WriteUInt32LittleEndian(buffer[(done + 4)..], next.Sequence);
                if (next.Content is uint content)
                    BinaryPrimitives.WriteUInt32LittleEndian(buffer[(done + HeaderBytes)..], content);
                queue.RemoveOldest();
                done += length;
            }

            return SyscallResult.Ok(done);
        }
    }

    public override PollEvents Ready
    {
        get
        {
            lock (queue.Context.Gate)
                return queue.Oldest is null ? PollEvents.None : PollEvents.In;
        }
    }

    public override void Release()
    {
        lock (queue.Context.Gate)
            queue.Users--;
        queue.Context.Drop();
    }
}
