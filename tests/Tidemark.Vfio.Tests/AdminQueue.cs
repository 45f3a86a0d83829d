using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Memory;
using Tidemark.Nvme;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// The smallest driver that makes a controller write: an admin queue and IDENTIFY, whose 4096 bytes go where we say.
/// </summary>
internal sealed class AdminQueue
{
    private const uint Entries = 16;

    private readonly VfioRegion _bar;
    private readonly GuestMemory _memory;
    private readonly ulong _submissions;
    private uint _tail;
    private uint _head;
    private uint _phase = 1;

    /// <param name="queues">Two pages of guest memory: submissions, completions.</param>
    public AdminQueue(VfioDevice device, GuestMemory memory, ulong queues)
    {
        Span<byte> command = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(command, NvmePci.CommandMemory | NvmePci.CommandBusMaster);
        device.GetRegion(VfioPciRegionIndex.Config).Write(NvmePci.CommandOffset, command);
        _bar = device.GetRegion(VfioPciRegionIndex.Bar0);
        _memory = memory;
        _submissions = queues;
        CompletionPage = (queues >> GuestPage.Shift) + 1;
        // A completion left by an earlier queue at this place would look like the first one of this queue.
        memory.Write(new GuestPhysicalAddress(queues), new byte[2 * GuestPage.Size]);
        // A controller that works already begins anew.
        _bar.Write32(NvmeRegister.Configuration, 0);
        WaitFor(() => !IsReady(device));
        _bar.Write32(NvmeRegister.AdminQueueAttributes, ((Entries - 1) << 16) | (Entries - 1));
        _bar.Write64(NvmeRegister.AdminSubmissionQueue, queues);
        _bar.Write64(NvmeRegister.AdminCompletionQueue, queues + GuestPage.Size);
        _bar.Write32(NvmeRegister.Configuration, (4u << 20) | (6u << 16) | 1);
        WaitFor(() => IsReady(device));
    }

    private AdminQueue(AdminQueue other, VfioDevice device, GuestMemory memory)
    {
        _bar = device.GetRegion(VfioPciRegionIndex.Bar0);
        _memory = memory;
        (_submissions, CompletionPage) = (other._submissions, other.CompletionPage);
        (_tail, _head, _phase) = (other._tail, other._head, other._phase);
    }

    /// <summary>The guest page that the controller writes with each command.</summary>
    public ulong CompletionPage { get; }

    /// <summary>The driver goes on with a controller that has taken over the state, and a copy of the memory.</summary>
    public AdminQueue MoveTo(VfioDevice device, GuestMemory memory) => new(this, device, memory);

    private static bool IsReady(VfioDevice device) =>
        (device.GetRegion(VfioPciRegionIndex.Bar0).Read32(NvmeRegister.Status) & 1) != 0;

    /// <summary>Lets the controller write one page of guest memory; returns when the command has completed.</summary>
    public void Identify(ulong page)
    {
        Span<byte> command = stackalloc byte[64];
        command.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(command, 0x06);
        BinaryPrimitives.WriteUInt64LittleEndian(command[24..], page << GuestPage.Shift);
        BinaryPrimitives.WriteUInt32LittleEndian(command[40..], 1);
        _memory.Write(new GuestPhysicalAddress(_submissions + (_tail * 64)), command);
        _tail = (_tail + 1) % Entries;
        _bar.Write32(NvmeRegister.Doorbells, _tail);

        var completion = new GuestPhysicalAddress(_submissions + GuestPage.Size + (_head * 16) + 12);
        WaitFor(() => (_memory.ReadVolatile<uint>(completion) >> 16 & 1) == _phase);
        Assert.Equal(0u, _memory.ReadVolatile<uint>(completion) >> 17);
        _head = (_head + 1) % Entries;
        _phase ^= _head == 0 ? 1u : 0u;
        _bar.Write32(NvmeRegister.Doorbells + 4, _head);
    }

    private static void WaitFor(Func<bool> condition) =>
        Assert.True(SpinWait.SpinUntil(condition, TimeSpan.FromSeconds(20)), "The controller did not answer.");
}
