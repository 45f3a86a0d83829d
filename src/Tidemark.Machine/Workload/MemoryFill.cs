using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Machine.Workload;

/// <summary>
/// Gives a fresh machine something to move: incompressible, seeded content from guest-physical 0 upwards.
/// </summary>
public static class MemoryFill
{
    public static void Fill(GuestMemory memory, ulong byteLength, int seed, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(memory);
        var sequence = new SeededSequence((ulong)seed ^ 0xF111);
        byte[] chunk = new byte[256 << 10];
        foreach (MemorySlot slot in memory.Slots)
        {
            for (ulong offset = 0; offset < slot.ByteLength && byteLength > 0; offset += (ulong)chunk.Length)
            {
                cancellation.ThrowIfCancellationRequested();
                int length = (int)Math.Min((ulong)chunk.Length, Math.Min(byteLength, slot.ByteLength - offset));
                for (int index = 0; index + 8 <= length; index += 8)
                    BinaryPrimitives.WriteUInt64LittleEndian(chunk.AsSpan(index), sequence.Next());
                memory.Write(new GuestPhysicalAddress(slot.Start.Value + offset), chunk.AsSpan(0, length));
                byteLength -= (ulong)length;
            }
        }
    }
}
