using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>
/// Random requests on containers, groups, device files and an iommufd: answered, never thrown at, and nothing stays.
/// </summary>
public sealed class LegacyFuzzTests
{
    private static readonly uint[] s_requests =
    [
        .. Enumerable.Range(0x3B64, 0x16).Select(request => (uint)request), 0x3B88, 0x3B81, 0x3B80, 0x3B87, 0x3BEE,
    ];

    [Fact]
    public void Random_requests_are_answered_and_leave_nothing() => Fuzz.Run(seconds: 3, Round);

    private static int Round(Random random, Action<string> tell)
    {
        const int Requests = 400;
        using var fixture = new LegacyFixture(host => host with
        {
            IommufdContainer = random.Next(4) == 0,
            LockedMemoryLimit = random.Next(2) == 0 ? null : (ulong)random.Next(8) * 4096,
        });
        Mapping memory = fixture.Memory(1 << 20);
        var open = new List<int> { fixture.OpenContainer(), fixture.Open("/dev/iommu") };
        ulong[] interesting =
        [
            0, 1, 2, 3, 4, 8, 63, 64, 4095, 4096, 8192, 0x1000_0000, 0x1000_1000, memory.Address.Value,
            memory.Address.Value + 8192, 1 << 20, 1UL << 39, 1UL << 48, 1UL << 63, ulong.MaxValue,
            ulong.MaxValue - 4095, 0xFEE0_0000, 1UL << 28,
        ];
        byte[] argument = new byte[64];
        for (int step = 0; step < Requests; step++)
        {
            int fd = open[random.Next(open.Count)];
            Fill(argument, random, interesting, open);
            uint request = s_requests[random.Next(s_requests.Length)];
            tell($"fd {fd}, 0x{request:x} {Convert.ToHexString(argument)}");
            switch (random.Next(12))
            {
                case 0:
                    Add(open, fixture.Kernel.Open($"/dev/vfio/{random.Next(5)}", OpenFlags.ReadWrite));
                    break;
                case 1:
                    Add(open, fixture.Kernel.Open($"/dev/vfio/devices/vfio{random.Next(4)}", OpenFlags.ReadWrite));
                    break;
                case 2 when open.Count > 2:
                    Assert.True(fixture.Kernel.Close(fd).Succeeded);
                    open.Remove(fd);
                    break;
                case 3:
                    Add(open, fixture.OpenDevice(fd, random.Next(2) == 0 ? Intel : Mediated));
                    break;
                case 4:
                    fixture.Join(fd, open[random.Next(open.Count)]);
                    break;
                case 5:
                    fixture.SetIommu(fd, random.Next(2) == 0 ? VfioExtension.Type1 : VfioExtension.Type1V2);
                    break;
                case 6:
                    fixture.Map(fd, 0x1000_0000 + ((ulong)random.Next(8) * 4096), memory.Address.Value, 8192);
                    break;
                case 7:
                    fixture.Kernel.IoctlValue(fd, request, interesting[random.Next(interesting.Length)]);
                    break;
                default:
                    fixture.Kernel.Ioctl(fd, request, argument.AsSpan(0, 8 * random.Next(9)));
                    break;
            }

            fixture.Port().TryWrite(0x1000_0000 + ((ulong)random.Next(8) * 4096), argument);
        }

        tell("closing");
        fixture.AssertNothingIsLeft([.. open.OrderBy(_ => random.Next())]);
        SoftProcess process = fixture.Kernel.Process;
        Assert.Equal((0UL, 0UL, 0UL), (process.Locked.Count, process.Pinned.Count, process.User.Locked.Count));
        return Requests;
    }

    private static void Fill(byte[] argument, Random random, ulong[] interesting, List<int> open)
    {
        for (int at = 8; at < argument.Length; at += 8)
            BitConverter.TryWriteBytes(argument.AsSpan(at), interesting[random.Next(interesting.Length)]);
        uint[] sizes = [0, 4, 8, 16, 24, 32, 40, 48, 64];
        bool isDescriptor = random.Next(3) == 0;
        BitConverter.TryWriteBytes(
            argument, isDescriptor ? open[random.Next(open.Count)] : (int)sizes[random.Next(sizes.Length)]);
        BitConverter.TryWriteBytes(argument.AsSpan(4), random.Next(8));
    }

    private static void Add(List<int> open, SyscallResult result)
    {
        if (result.Succeeded)
            open.Add((int)result.Value);
    }
}
