using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// VFIO_DEVICE_FEATURE_DMA_BUF of an open device: parts of its BARs as dma-bufs, which are revoked while the BARs do not
/// answer, and for good when the device is closed. Under the device's gate.
/// </summary>
internal sealed class VfioDmaBufs(PciVfioDevice device)
{
    private const int HeaderLength = 16;
    private const int RangeLength = 16;

    private readonly List<DmaBuf> _lent = [];

    /// <summary>
    /// Value: the new descriptor. EINVAL: no ranges, a flag, a range that is empty, not of whole pages or outside of the
    /// region; ENODEV: not a BAR that the device has; EFAULT: ranges that can not be read; EOVERFLOW: a range that ends
    /// beyond all addresses. On failure nothing was made.
    /// </summary>
    public SyscallResult Export(ReadOnlySpan<byte> payload)
    {
        VfioArgument.TryRead(payload, HeaderLength, out VfioDeviceFeatureDmaBuf request);
        if (request.NrRanges == 0 || request.Flags != 0)
            return SyscallResult.Fail(Errno.EINVAL);
        if (request.RegionIndex >= (uint)VfioPciRegionIndex.Rom
            || device.Model.Regions[(int)request.RegionIndex].ByteLength == 0)
            return SyscallResult.Fail(Errno.ENODEV);
        ReadOnlySpan<byte> ranges = payload[HeaderLength..];
        if ((ulong)ranges.Length < (ulong)request.NrRanges * RangeLength)
            return SyscallResult.Fail(Errno.EFAULT);
        const ulong MostBytes = long.MaxValue;
        ulong first = 0, total = 0;
        for (int index = 0; index < request.NrRanges; index++)
        {
            VfioArgument.TryRead(ranges[(index * RangeLength)..], RangeLength, out VfioRegionDmaRange range);
            if (range.Length == 0 || (range.Offset | range.Length) % GuestPage.Size != 0
                || range.Length > MostBytes - total)
                return SyscallResult.Fail(Errno.EINVAL);
            first = index == 0 ? range.Offset : first;
            total += range.Length;
        }

        if (!device.TryPlace(request.RegionIndex, out ulong physical))
            return SyscallResult.Fail(Errno.ENOMEM);
        ulong size = device.Model.Regions[(int)request.RegionIndex].ByteLength;
        for (int index = 0; index < request.NrRanges; index++)
        {
            VfioArgument.TryRead(ranges[(index * RangeLength)..], RangeLength, out VfioRegionDmaRange range);
            if (range.Offset > ulong.MaxValue - physical || range.Length > ulong.MaxValue - physical - range.Offset)
                return SyscallResult.Fail(Errno.EOVERFLOW);
            if (range.Offset + range.Length > size)
                return SyscallResult.Fail(Errno.EINVAL);
        }

        var lent = new DmaBuf(physical + first, total, isWhole: request.NrRanges == 1);
        lent.Move(revoked: !device.Model.AnswersMemory);
        var file = new DmaBufFile(lent);
        SyscallResult installed = device.Kernel.Install(file);
        if (!installed.Succeeded)
        {
            file.Release();
            return installed;
        }

        _lent.RemoveAll(buffer => buffer.IsReleased);
        _lent.Add(lent);
        return installed;
    }

    /// <summary>The BARs do not answer from here on: nobody reaches what was lent when this returns.</summary>
    public void Revoke()
    {
        foreach (DmaBuf buffer in _lent)
            buffer.Move(revoked: true);
    }

    /// <summary>Gives back what was lent, if the BARs answer.</summary>
    public void Restore()
    {
        if (!device.Model.AnswersMemory)
            return;
        foreach (DmaBuf buffer in _lent)
            buffer.Move(revoked: false);
    }

    /// <summary>The last close.</summary>
    public void End()
    {
        foreach (DmaBuf buffer in _lent)
            buffer.End();
        _lent.Clear();
    }
}
