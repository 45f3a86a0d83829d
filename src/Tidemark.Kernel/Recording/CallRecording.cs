using System.Globalization;
using System.Text;

namespace Tidemark.Kernel.Recording;

/// <summary>A device that a recorded program was given.</summary>
/// <param name="Address">PCI address or UUID.</param>
/// <param name="Node">Its VFIO device node.</param>
/// <param name="Group">Its VFIO group's node, or <c>-</c>.</param>
public sealed record RecordedDevice(string Address, string Node, string Group);

/// <summary>The calls of one case, from nothing open and nothing mapped to the same again.</summary>
public sealed record RecordedCase(string Name, IReadOnlyList<RecordedStep> Steps);

/// <summary>Cases that ran on a kernel, call by call with the memory around each, as a text file that git can show.</summary>
/// <remarks>
/// <code>
///   tidemark recording 1                                 the form and its version
///   kernel linux 7.3.4                                   whose answers these are
///   profile mock                                         the host: hardware that the soft kernel has under that name
///   device 0000:00:08.0 /dev/vfio/devices/vfio0 /dev/vfio/3
///   skipped iommufd.hwpt.dirty.written A controller ...  a case that ran and is not here, and why
///   case iommufd.ioas.alloc.accepted
///   stored 0x7f3a80000000 01(7)                          what the program stored since the call before
///   ioctl 5 15233 in=0c(11) out=0c(7)01(3) = 0           a call: see RecordedCall
///   wrote 0x7f3a80000000 ff(7)                           what the kernel stored during it
///   end
/// </code>
/// Descriptors, addresses and nodes are those of the recorded process; <see cref="TraceReplay"/> translates them.
/// </remarks>
public sealed record CallRecording(
    KernelIdentity Kernel, string Profile, IReadOnlyList<RecordedDevice> Devices, IReadOnlyList<RecordedCase> Cases,
    IReadOnlyList<(string Case, string Reason)> Skipped)
{
    /// <summary>LIMIT: characters of a file.</summary>
    public const int LongestFile = 64 << 20;

    internal const string FirstLine = "tidemark recording 1";

    /// <exception cref="FormatException">The text is not a recording; the message says which line and why.</exception>
    public static CallRecording Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text.Length > LongestFile)
            throw new FormatException($"A recording of {text.Length} characters is longer than {LongestFile}.");
        return new RecordingReader(text).Read();
    }

    public string ToText()
    {
        var text = new StringBuilder();
        text.Append(FirstLine).Append('\n');
        text.Append(CultureInfo.InvariantCulture, $"kernel {Kernel.Name} {Kernel.Version}\n");
        text.Append(CultureInfo.InvariantCulture, $"profile {Profile}\n");
        foreach (RecordedDevice device in Devices)
            text.Append(CultureInfo.InvariantCulture, $"device {device.Address} {device.Node} {device.Group}\n");
        foreach ((string name, string reason) in Skipped)
            text.Append(CultureInfo.InvariantCulture, $"skipped {name} {reason}\n");
        foreach (RecordedCase recorded in Cases)
        {
            text.Append(CultureInfo.InvariantCulture, $"case {recorded.Name}\n");
            foreach (RecordedStep step in recorded.Steps)
            {
                Append(text, "stored", step.Stored);
                text.Append(step.Call.ToLine()).Append('\n');
                Append(text, "wrote", step.Written);
            }

            text.Append("end\n");
        }

        return text.ToString();
    }

    private static void Append(StringBuilder text, string word, IReadOnlyList<MemoryChange> changes)
    {
        foreach (MemoryChange change in changes)
        {
            text.Append(CultureInfo.InvariantCulture, $"{word} 0x{change.Address:x} ")
                .Append(RecordedBytes.ToText(change.Bytes)).Append('\n');
        }
    }
}
