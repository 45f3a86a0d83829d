using System.Buffers.Binary;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>
/// A soft kernel with devices behind three IOMMUs and a mediated one, and short ways to call its containers and groups.
/// </summary>
internal sealed class LegacyFixture : IDisposable
{
    public const string Intel = "0000:01:00.0";
    public const string Narrow = "0000:02:00.0";
    public const string Amd = "0000:03:00.0";
    public const string Mediated = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    public const int MediatedGroup = 3;
    public const VfioDmaMapFlags Access = VfioDmaMapFlags.Read | VfioDmaMapFlags.Write;

    private readonly string _disk = Path.GetTempFileName();
    private readonly List<Mapping> _mappings = [];

    public LegacyFixture(Func<SoftHost, SoftHost>? change = null)
    {
        File.WriteAllBytes(_disk, new byte[1 << 16]);
        var disk = new SoftDisk(_disk, 1 << 16);
        var host = new SoftHost(
            [
                new SoftIommuUnit("dmar0"), new SoftIommuUnit("dmar1") { AddressWidth = 39 },
                new SoftIommuUnit("amd") { Kind = SoftIommuKind.Amd },
            ],
            [
                new SoftNvme(Intel, "dmar0", disk), new SoftNvme(Narrow, "dmar1", disk), new SoftNvme(Amd, "amd", disk),
            ])
        {
            Mediated = [new SoftMtty(Mediated, 1)],
        };
        Kernel = new SoftKernel(new LinuxKernel(), change is null ? host : change(host));
    }

    public SoftKernel Kernel { get; }

    public DevicePort Port(string address = Intel) => Kernel.PortOf(address);

    public int Open(string path)
    {
        SyscallResult opened = Kernel.Open(path, OpenFlags.ReadWrite);
        Assert.Equal(Errno.Success, opened.Errno);
        return (int)opened.Value;
    }

    public int OpenContainer() => Open("/dev/vfio/vfio");

    public Errno Join(int group, int container)
    {
        byte[] argument = new byte[4];
        BinaryPrimitives.WriteInt32LittleEndian(argument, container);
        return Kernel.Ioctl(group, VfioRequests.GroupSetContainer.Value, argument).Errno;
    }

    public Errno Leave(int group) => Kernel.IoctlValue(group, VfioRequests.GroupUnsetContainer.Value, 0).Errno;

    public Errno SetIommu(int container, VfioExtension type = VfioExtension.Type1V2) =>
        Kernel.IoctlValue(container, VfioRequests.SetIommu.Value, (ulong)type).Errno;

    public long Extension(int container, VfioExtension extension) =>
        Kernel.IoctlValue(container, VfioRequests.CheckExtension.Value, (ulong)extension).Value;

    /// <summary>A container with groups and type1.</summary>
    public (int Container, int[] Groups) Type1(VfioExtension type, params int[] numbers)
    {
        int container = OpenContainer();
        int[] groups = [.. numbers.Select(number => Open($"/dev/vfio/{number}"))];
        foreach (int group in groups)
            Assert.Equal(Errno.Success, Join(group, container));
        Assert.Equal(Errno.Success, SetIommu(container, type));
        return (container, groups);
    }

    public SyscallResult OpenDevice(int group, string name) =>
        Kernel.Ioctl(group, VfioRequests.GroupGetDeviceFd.Value, Encoding.ASCII.GetBytes($"{name}\0"));

    public Mapping Memory(ulong byteLength)
    {
        var mapping = Mapping.CreateAnonymous(Kernel, byteLength);
        _mappings.Add(mapping);
        return mapping;
    }

    public Errno Map(int container, ulong iova, ulong address, ulong byteLength, VfioDmaMapFlags flags = Access) =>
        Call(container, VfioIommuType1DmaMap.Create(flags, iova, address, byteLength), out _);

    public Errno Unmap(int container, ulong iova, ulong byteLength, out ulong unmapped,
        VfioDmaUnmapFlags flags = VfioDmaUnmapFlags.None)
    {
        Errno errno = Call(container, VfioIommuType1DmaUnmap.Create(flags, iova, byteLength), out var after);
        unmapped = after.Size;
        return errno;
    }

    public Errno Dirty(int container, VfioIommuDirtyPagesFlags flags) =>
        Call(container, VfioIommuType1DirtyBitmap.Create(flags), out _);

    public Errno GetBitmap(int container, ulong iova, ulong pages, ulong address)
    {
        byte[] argument = new byte[48];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, 48);
        BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), (uint)VfioIommuDirtyPagesFlags.GetBitmap);
        ulong[] words = [iova, pages * 4096, 4096, (pages + 63) / 64 * 8, address];
        for (int index = 0; index < words.Length; index++)
            BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(8 + (8 * index)), words[index]);
        return Kernel.Ioctl(container, VfioRequests.IommuDirtyPages.Value, argument).Errno;
    }

    public byte[] Info(int container)
    {
        byte[] argument = new byte[512];
        BinaryPrimitives.WriteInt32LittleEndian(argument, argument.Length);
        Assert.Equal(Errno.Success, Kernel.Ioctl(container, VfioRequests.IommuGetInfo.Value, argument).Errno);
        return argument;
    }

    /// <summary>Closes descriptors and memory, in the order given, and finds nothing left.</summary>
    public void AssertNothingIsLeft(params int[] descriptors)
    {
        foreach (int descriptor in descriptors)
            Assert.True(Kernel.Close(descriptor).Succeeded);
        _mappings.ForEach(mapping => mapping.Dispose());
        Assert.Equal(default, Kernel.CountOpen());
    }

    public void Dispose()
    {
        _mappings.ForEach(mapping => mapping.Dispose());
        Kernel.Dispose();
        File.Delete(_disk);
    }

    private Errno Call<T>(int fd, T argument, out T after)
        where T : unmanaged, IIoctlArgument<T>
    {
        after = argument;
        return Kernel.Ioctl(
            fd, T.Request.Value,
            System.Runtime.InteropServices.MemoryMarshal.AsBytes(new Span<T>(ref after))).Errno;
    }
}
