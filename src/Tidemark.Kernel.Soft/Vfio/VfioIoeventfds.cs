using System.Buffers.Binary;
using System.Numerics;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// VFIO_DEVICE_IOEVENTFD: writes into a BAR that an eventfd stands for. Calls are made under the device's gate.
/// </summary>
internal sealed class VfioIoeventfds(SoftDeviceModel model, EventfdWatcher watcher)
{
    /// <summary>Bytes up to the field fd.</summary>
    private const int LeastLength = 28;

    /// <summary>LIMIT: of one device (UAPI: VFIO_PCI_IOEVENTFD_MAX).</summary>
    private const int Most = 1000;

    private const int IndexShift = 40;

    private readonly Dictionary<(uint Bar, ulong Position, ulong Data, int Count), object> _watches = [];

    public Errno Set(ReadOnlySpan<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, LeastLength, out VfioDeviceIoeventfd request))
            return Errno.EFAULT;
        uint size = (uint)request.Flags;
        if (request.Argsz < LeastLength || size > 0xF || BitOperations.PopCount(size) != 1 || request.Fd < -1)
            return Errno.EINVAL;
        uint bar = (uint)Math.Min(request.Offset >> IndexShift, uint.MaxValue);
        ulong position = request.Offset & ((1UL << IndexShift) - 1);
        int count = (int)size;
        if (bar > (uint)VfioPciRegionIndex.Bar5 || position + size > model.Regions[(int)bar].ByteLength)
            return Errno.EINVAL;
        (uint tableBar, ulong first, ulong length) = model.MsixTable;
        if (bar == tableBar && position + size > first && position < first + length)
            return Errno.EINVAL;
        var key = (bar, position, request.Data, count);
        if (_watches.TryGetValue(key, out object? known))
        {
            if (request.Fd >= 0)
                return Errno.EEXIST;
            watcher.Remove(known);
            _watches.Remove(key);
            return Errno.Success;
        }

        if (request.Fd < 0)
            return Errno.ENODEV;
        if (_watches.Count >= Most)
            return Errno.ENOSPC;
        byte[] bytes = new byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, request.Data);
        // What the device answers to the write is nobody's to know, as on hardware.
        Errno errno = watcher.Add(
            request.Fd, () => model.WriteRegion(bar, position, bytes.AsSpan(0, count)), out object? watch);
        if (errno == Errno.Success)
            _watches.Add(key, watch!);
        return errno;
    }
}
