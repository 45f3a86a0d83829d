using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>A page request of a device that waits for its answer.</summary>
/// <param name="Device">Whose; it reaches the queue through what is attached to <paramref name="Attachment"/>.</param>
/// <param name="Attachment">The PASID whose attachment led to the queue, 0 for the device itself.</param>
internal sealed record PageRequest(
    BoundDevice Device, uint Attachment, IommuHwptPgfaultFlags Flags, uint Pasid, uint Group,
    IommuHwptPgfaultPerm Permission, ulong Address);

/// <summary>
/// The page requests of the tables that name this queue. Its descriptor keeps it from being destroyed.
/// </summary>
/// <remarks>
/// <code>
/// device -> delivered, oldest first --read: gets a cookie--> waiting for an answer --write: cookie, code--> answered
///              |                                                |
///              +---- the device is detached: answered as invalid, gone
/// </code>
/// Guarded by the context's lock.
/// </remarks>
internal sealed class FaultQueue(IommufdContext context) : IommuObject
{
    private readonly LinkedList<PageRequest> _delivered = [];
    private readonly SortedDictionary<uint, PageRequest> _waiting = [];

    public IommufdContext Context => context;

    public bool IsEmpty => _delivered.Count == 0;

    public void Deliver(PageRequest request) => _delivered.AddLast(request);

    /// <summary>The requests of an attachment that ends are answered as invalid.</summary>
    public void Forget(BoundDevice device, uint attachment)
    {
        for (LinkedListNode<PageRequest>? node = _delivered.First; node is not null;)
        {
            LinkedListNode<PageRequest>? next = node.Next;
            if (IsOf(node.Value, device, attachment))
                _delivered.Remove(node);
            node = next;
        }

        foreach (uint cookie in _waiting.Where(pair => IsOf(pair.Value, device, attachment))
            .Select(pair => pair.Key).ToArray())
        {
            _waiting.Remove(cookie);
        }
    }

    /// <summary>The oldest request, which then has a cookie; false: there is none.</summary>
    public bool TryTake(out PageRequest? request, out uint cookie)
    {
        request = _delivered.First?.Value;
        cookie = 0;
        if (request is null)
            return false;
        _delivered.RemoveFirst();
        // The lowest free number from 1.
        cookie = 1;
        foreach (uint taken in _waiting.Keys)
        {
            if (taken != cookie)
                break;
            cookie++;
        }

        _waiting.Add(cookie, request);
        return true;
    }

    /// <summary>False: no request waits under this cookie.</summary>
    public bool TryAnswer(uint cookie) => _waiting.Remove(cookie);

    public override void Destroy()
    {
        _delivered.Clear();
        _waiting.Clear();
    }

    private static bool IsOf(PageRequest request, BoundDevice device, uint attachment) =>
        ReferenceEquals(request.Device, device) && request.Attachment == attachment;
}

/// <summary>The descriptor of a <see cref="FaultQueue"/>: requests are read, answers are written.</summary>
internal sealed class FaultQueueFile(FaultQueue queue) : SoftFile
{
    private const int RequestBytes = 40;
    private const int AnswerBytes = 8;

    public override string Kind => "iommufd-fault";

    public override SyscallResult Read(Span<byte> buffer)
    {
        if (buffer.Length % RequestBytes != 0)
            return SyscallResult.Fail(Errno.ESPIPE);
        lock (queue.Context.Gate)
        {
            // Nothing to read is a read of 0 bytes: there is no waiting here, only in poll.
            if (buffer.IsEmpty && !queue.IsEmpty)
                return SyscallResult.Fail(Errno.EINVAL);
            int done = 0;
            while (done < buffer.Length && queue.TryTake(out PageRequest? request, out uint cookie))
            {
                Compose(request!, cookie, buffer.Slice(done, RequestBytes));
                done += RequestBytes;
            }

            return SyscallResult.Ok(done);
        }
    }

    public override SyscallResult Write(ReadOnlySpan<byte> buffer)
    {
        if (buffer.Length % AnswerBytes != 0)
            return SyscallResult.Fail(Errno.ESPIPE);
        lock (queue.Context.Gate)
        {
            int done = 0;
            for (; done < buffer.Length; done += AnswerBytes)
            {
                uint cookie = BinaryPrimitives.ReadUInt32LittleEndian(buffer[done..]);
                uint code = BinaryPrimitives.ReadUInt32LittleEndian(buffer[(done + 4)..]);
                if (code > (uint)IommufdPageResponseCode.Invalid || !queue.TryAnswer(cookie))
                    return done == 0 ? SyscallResult.Fail(Errno.EINVAL) : SyscallResult.Ok(done);
            }

            return SyscallResult.Ok(done);
        }
    }

    public override PollEvents Ready
    {
        get
        {
            lock (queue.Context.Gate)
                return queue.IsEmpty ? PollEvents.Out : PollEvents.In | PollEvents.Out;
        }
    }

    public override void Release()
    {
        lock (queue.Context.Gate)
            queue.Users--;
        queue.Context.Drop();
    }

    private static void Compose(PageRequest request, uint cookie, Span<byte> into)
    {
        var message = new IommuHwptPgfault
        {
            Flags = request.Flags,
            DevId = request.Device.Id,
            Pasid = request.Pasid,
            Grpid = request.Group,
            Perm = request.Permission,
            Addr = request.Address,
            Cookie = cookie,
        };
        StructBytes.OfReadOnly(in message).CopyTo(into);
    }
}
