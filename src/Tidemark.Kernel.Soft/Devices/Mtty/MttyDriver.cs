using Tidemark.Abi;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>mtty on an open device.</summary>
internal sealed class MttyDriver(MttyDevice device) : VfioDriver
{
    private const int IndexShift = 40;
    private const ulong OffsetMask = (1UL << IndexShift) - 1;

    public override IVfioMigration? Migration => device.Migration;

    public override IVfioDmaLog? Log { get; } = new SilentDmaLog(device.Kernel);

    public override Errno Ioctl(uint request, Span<byte> argument)
    {
        lock (device.Gate)
        {
            if (request == VfioRequests.DeviceGetInfo.Value)
                return GetInfo(argument);
            if (request == VfioRequests.DeviceGetIrqInfo.Value)
                return device.Interrupts.GetInfo(argument);
            if (request == VfioRequests.DeviceSetIrqs.Value)
                return device.Interrupts.Set(argument);
            if (request != VfioRequests.DeviceReset.Value)
                return Errno.ENOTTY;
            // Registers stay; and a reset that finds a migration call in progress comes right after it, as in mtty.
            device.Migration.Reset();
            return Errno.Success;
        }
    }

    public override Errno GetRegionInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioRegionInfo.MinimumSize, out VfioRegionInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioRegionInfo.MinimumSize || info.Index >= (uint)VfioPciRegionIndex.Count)
            return Errno.EINVAL;
        info.Size = (VfioPciRegionIndex)info.Index switch
        {
            VfioPciRegionIndex.Config => MttyConfig.ByteLength,
            VfioPciRegionIndex.Bar0 => SerialPort.RegisterCount,
            VfioPciRegionIndex.Bar1 when device.Ports == 2 => SerialPort.RegisterCount,
            _ => 0,
        };
        info.Offset = (ulong)info.Index << IndexShift;
        // Of regions that are not there, too.
        info.Flags = VfioRegionInfoFlags.Read | VfioRegionInfoFlags.Write;
        VfioArgument.Write(argument, info, (int)VfioRegionInfo.StructSize);
        return Errno.Success;
    }

    public override SyscallResult Feature(VfioFeatureCall call) => SyscallResult.Fail(Errno.ENOTTY);

    /// <summary>In accesses of 4, 2 or 1 bytes; the first that leads nowhere makes it EFAULT.</summary>
    public override SyscallResult Read(Span<byte> buffer, ulong offset)
    {
        lock (device.Gate)
        {
            for (int done = 0; done < buffer.Length;)
            {
                ulong at = unchecked(offset + (ulong)done);
                int width = Width(at, buffer.Length - done);
                if (!TryRead(at, buffer.Slice(done, width)))
                    return SyscallResult.Fail(Errno.EFAULT);
                done += width;
            }
        }

        return SyscallResult.Ok(buffer.Length);
    }

    /// <summary>As <see cref="Read"/>; what came before the failure is written.</summary>
    public override SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset)
    {
        lock (device.Gate)
        {
            for (int done = 0; done < buffer.Length;)
            {
                ulong at = unchecked(offset + (ulong)done);
                int width = Width(at, buffer.Length - done);
                if (!TryWrite(at, buffer.Slice(done, width)))
                    return SyscallResult.Fail(Errno.EFAULT);
                done += width;
            }
        }

        return SyscallResult.Ok(buffer.Length);
    }

    public override SyscallResult ResolveMmap(ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset)
    {
        hostFd = -1;
        hostOffset = 0;
        return SyscallResult.Fail(Errno.EINVAL);
    }

    /// <summary>Registers and the migration state stay as they are.</summary>
    public override void Dispose()
    {
        device.Migration.EndSessions();
        device.Interrupts.DisableAll();
    }

    private static int Width(ulong at, int left) => left >= 4 && at % 4 == 0 ? 4 : left >= 2 && at % 2 == 0 ? 2 : 1;

    /// <summary>mtty looks at the low 16 bits of an offset only.</summary>
    private static int Register(ulong at) => (int)(at & OffsetMask & 0xFFFF);

    private static VfioPciRegionIndex Region(ulong at) => (VfioPciRegionIndex)(at >> IndexShift);

    private Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioDeviceInfo.MinimumSize, out VfioDeviceInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioDeviceInfo.MinimumSize)
            return Errno.EINVAL;
        // Its RESET request works; the flag that says so is missing, in mtty too.
        info.Flags = VfioDeviceFlags.Pci;
        info.NumRegions = (uint)VfioPciRegionIndex.Count;
        info.NumIrqs = (uint)VfioPciIrqIndex.Count;
        device.Interrupts.KnownIndices = info.NumIrqs;
        VfioArgument.Write(argument, info, (int)VfioDeviceInfo.MinimumSize);
        return Errno.Success;
    }

    private bool TryRead(ulong at, Span<byte> into)
    {
        VfioPciRegionIndex region = Region(at);
        if (region == VfioPciRegionIndex.Config)
        {
            ulong offset = at & OffsetMask;
            device.Config.Read((int)Math.Min(offset, MttyConfig.ByteLength), into);
            return true;
        }

        if (region > VfioPciRegionIndex.Bar5)
            return false;
        // FIDELITY: of an access wider than a register mtty gives rubbish in the other bytes, and registers of ports
        // that no card has are whatever memory they lie in; here both are zeros.
        into.Clear();
        if ((int)region < device.Serial.Length)
            into[0] = device.Serial[(int)region].Read(Register(at));
        return true;
    }

    private bool TryWrite(ulong at, ReadOnlySpan<byte> from)
    {
        VfioPciRegionIndex region = Region(at);
        if (region == VfioPciRegionIndex.Config)
        {
            device.Config.Write(Register(at), from);
            return true;
        }

        if (region > VfioPciRegionIndex.Bar5)
            return false;
        if ((int)region < device.Serial.Length)
            device.Serial[(int)region].Write(Register(at), from[0]);
        return true;
    }
}
