using Tidemark.Machine.Description;

namespace Tidemark.Cli.Hosting;

/// <summary>The ordinary files behind soft disks, looked at before a machine is built over them.</summary>
internal static class DiskFiles
{
    /// <summary>Size in bytes.</summary>
    /// <exception cref="CommandFailure">The file is missing, empty, no ordinary file, or can not be opened as the mode needs.</exception>
    public static ulong SizeOf(SoftDeviceDescription device)
    {
        bool writes = device.Mode == DiskMode.WriteThrough;
        try
        {
            if (Directory.Exists(device.Disk))
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is a folder; a disk is an ordinary file.");
            // A FIFO or device node could block or have no size: only ordinary files are opened.
            if ((File.GetAttributes(device.Disk) & (FileAttributes.Device | FileAttributes.Directory)) != 0)
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is not an ordinary file.");
            using FileStream file = new(
                device.Disk, FileMode.Open, writes ? FileAccess.ReadWrite : FileAccess.Read, FileShare.ReadWrite);
            if (!file.CanSeek)
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is not an ordinary file.");
            if (file.Length == 0)
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is empty; a disk has at least one block.");
            return (ulong)file.Length;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Nothing stays open.
            string cause = failure is FileNotFoundException or DirectoryNotFoundException ? "there is no such file" : failure.Message;
            throw new CommandFailure($"Disk {device.Disk} of {device.Address} can not be opened{(writes ? " for writing" : "")}: {cause}");
        }
    }
}
