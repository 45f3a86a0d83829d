using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>
/// Random requests on an iommufd with a device and a test domain: answered, never thrown at, and nothing stays.
/// </summary>
public sealed class IommufdFuzzTests
{
    private const int FirstDescriptor = 1 << 20;
    private const ulong Iova = 0x10_0000;
    private const ulong MemoryLength = 1 << 20;

    [Fact]
    public void Random_requests_are_answered_and_never_thrown_at() => Fuzz.Run(seconds: 2, Round);

    private static int Round(Random random, Action<string> tell)
    {
        const int Requests = 4000;
        // Room for the memory once; every other round nobody is limited.
        ulong? limit = random.Next(2) == 0 ? null : MemoryLength + ((ulong)random.Next(64) * 4096);
        using var fixture = new IommufdFixture(testDomain: true, lockedMemory: limit);
        (uint ioas, _, var device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(MemoryLength);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Iova, memory.Address.Value, MemoryLength));
        using KernelFd file = NewFile(fixture.Kernel);
        SoftProcess[] processes =
        [
            fixture.Kernel.Process, new(fixture.Kernel.Process.User, MemoryLength, privileged: false),
            new(new SoftUser(), ulong.MaxValue, privileged: true), new(new SoftUser(), 64 << 10, privileged: false),
        ];
        ulong[] interesting =
        [
            0, 1, 2, 3, 4, 4095, 4096, Iova, 0x1000, 1 << 20, memory.Address.Value, memory.Address.Value + 8192,
            ulong.MaxValue, ulong.MaxValue - 4095, 1UL << 48, 1UL << 63, 0xFEE00000, 0x1000000, 1 << 20 | 1,
            // The types of virtual IOMMUs and of their events.
            0xDEAD_BEEF, 0xBEEF_BEEF, 0xDEAD_BEEF_0000_0000, 0xDEAD,
        ];
        byte[] argument = new byte[72];
        for (int step = 0; step < Requests; step++)
        {
            uint request = Fill(argument, random, interesting, file.Number);
            tell($"0x{request:x} {Convert.ToHexString(argument)}");
            using (fixture.Kernel.Enter(processes[random.Next(processes.Length)]))
            {
                fixture.Kernel.Ioctl(
                    fixture.Fd.Number, request, argument.AsSpan(0, random.Next(2) == 0 ? 72 : 8 * random.Next(10)));
            }

            byte[] bytes = new byte[8 * random.Next(12)];
            fixture.Kernel.Read(FirstDescriptor + random.Next(1, 8), bytes);
            fixture.Kernel.Write(FirstDescriptor + random.Next(1, 8), bytes);
            fixture.Port().TryWrite(interesting[random.Next(interesting.Length)], argument);
        }

        tell("closing");
        device.Unbind();
        memory.Dispose();
        file.Dispose();
        fixture.CloseOthers();
        fixture.Fd.Dispose();
        Assert.Equal(default, fixture.Kernel.CountOpen());
        foreach (SoftProcess process in processes)
            Assert.Equal((0UL, 0UL, 0UL), (process.Locked.Count, process.Pinned.Count, process.User.Locked.Count));
        return Requests;
    }

    private static uint Fill(byte[] argument, Random random, ulong[] interesting, int file)
    {
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(argument.AsSpan());
        for (int index = 0; index < words.Length; index++)
        {
            words[index] = random.Next(4) switch
            {
                0 => (ulong)random.NextInt64(),
                1 => (uint)random.Next(8) | (ulong)random.Next(8) << 32,
                _ => interesting[random.Next(interesting.Length)],
            };
        }

        uint[] sizes = [0, 8, 12, 16, 24, 32, 40, 48, 64, 72];
        BitConverter.TryWriteBytes(argument, sizes[random.Next(sizes.Length)]);
        if (random.Next(3) != 0)
            argument.AsSpan(48).Clear();
        if (random.Next(3) != 0)
        {
            uint request = (uint)(0x3B80 + random.Next(0x17));
            // A file that can be mapped is not found by chance.
            if (request == IommufdRequests.IoasMapFile.Value && random.Next(2) == 0)
                BitConverter.TryWriteBytes(argument.AsSpan(12), file);
            return request;
        }

        // A test command: its operation, an id or descriptor, and often the size that it wants.
        argument.AsSpan(64).Clear();
        BitConverter.TryWriteBytes(argument, 72);
        BitConverter.TryWriteBytes(argument.AsSpan(4), random.Next(25));
        BitConverter.TryWriteBytes(
            argument.AsSpan(8), random.Next(2) == 0 ? random.Next(40) : FirstDescriptor + random.Next(8));
        return 0x3BA0;
    }

    private static KernelFd NewFile(SoftKernel kernel)
    {
        var file = new KernelFd(kernel, (int)kernel.MemfdCreate("fuzz", MemfdFlags.CloseOnExec).Value);
        Assert.True(kernel.Ftruncate(file.Number, MemoryLength).Succeeded);
        return file;
    }
}
