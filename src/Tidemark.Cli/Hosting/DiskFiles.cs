using Tidemark.Machine.Description;

namespace Tidemark.Cli.Hosting;

/// <summary>The ordinary files behind soft disks, looked at before a machine is built over them.</summary>
internal static class DiskFiles
{
    /// <summary>Size in bytes.</summary>
    /// <exception cref="CommandFailure">The file is missing, empty, no ordinary file, or can not be opened as the mode
    /// needs.</exception>
    public static ulong SizeOf(SoftDeviceDescription device)
    {
        bool writes = device.Mode == DiskMode.WriteThrough;
        try
        {
            if (Directory.Exists(device.Disk))
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is a folder; a disk is an ordinary file.");
            // Opening a FIFO or a device could block for ever; neither has a length.
            if (new FileInfo(device.Disk).Length == 0)
                throw new CommandFailure($"Disk {device.Disk} of {device.Address} is empty or no ordinary file; a disk is a file with at least one block.");
            using FileStream file = new(
                device.Disk, FileMode.Open, writes ? FileAccess.ReadWrite : FileAccess.Read, FileShare.ReadWrite);
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
