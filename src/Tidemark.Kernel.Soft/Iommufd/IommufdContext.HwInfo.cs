using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>GET_HW_INFO.</summary>
internal sealed partial class IommufdContext
{
    private Errno GetHwInfo(ref IommuHwInfo command)
    {
        if ((command.Flags & ~IommuHwInfoFlags.InputType) != 0)
            return Errno.EOPNOTSUPP;
        if (command.Reserved[0] != 0 || command.Reserved[1] != 0 || command.Reserved[2] != 0)
            return Errno.EOPNOTSUPP;
        if (Objects.Find<BoundDevice>(command.DevId) is not BoundDevice device)
            return Errno.ENOENT;
        IommuDriver driver = device.Port.Driver;
        if (driver is NoIommuDriver)
            return Errno.EOPNOTSUPP;
        bool asksType = (command.Flags & IommuHwInfoFlags.InputType) != 0;
        // A driver that tells nothing does not look at the type either.
        if (asksType && command.OutDataType != IommuHwInfoType.Default && command.OutDataType != driver.InfoType
            && driver.InfoType != IommuHwInfoType.None)
        {
            return Errno.EOPNOTSUPP;
        }

        Span<byte> info = stackalloc byte[IommuDriver.LargestInfo];
        ReadOnlySpan<byte> bytes = info[..driver.CopyInfo(info)];
        int copied = (int)Math.Min(command.DataLen, (uint)bytes.Length);
        ulong rest = unchecked(command.DataUptr + (ulong)copied);
        if (!User.TryCopyOut(command.DataUptr, bytes[..copied]) || !User.TryClear(rest, command.DataLen - (uint)copied))
            return Errno.EFAULT;
        command.DataLen = (uint)bytes.Length;
        command.OutDataType = driver.InfoType;
        command.OutMaxPasidLog2 = device.PasidBits;
        command.OutCapabilities = driver.Capabilities;
        return Errno.Success;
    }
}
