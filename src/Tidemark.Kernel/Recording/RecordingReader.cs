using System.Globalization;
using Tidemark.Memory;

namespace Tidemark.Kernel.Recording;

/// <summary>Reads the form that <see cref="CallRecording"/> draws, line by line, and says which line is wrong.</summary>
internal sealed class RecordingReader(string text)
{
    /// <summary>LIMIT: bytes that all values of a file stand for; runs make them more than the file has.</summary>
    private const long MostBytes = 256 << 20;

    /// <summary>LIMIT: a region that was mapped.</summary>
    private const long LongestRegion = 1L << 40;

    private const long HighestAddress = 1L << 56;

    private readonly List<RecordedDevice> _devices = [];
    private readonly List<RecordedCase> _cases = [];
    private readonly List<(string Case, string Reason)> _skipped = [];
    private KernelIdentity? _kernel;
    private string? _profile;
    private string? _case;
    private List<RecordedStep> _steps = [];
    private List<MemoryChange> _stored = [];
    private long _bytes;

    /// <exception cref="FormatException">The text is not a recording.</exception>
    public CallRecording Read()
    {
        int number = 0;
        foreach (ReadOnlySpan<char> found in text.AsSpan().EnumerateLines())
        {
            number++;
            string line = found.ToString();
            try
            {
                if (number == 1 ? line != CallRecording.FirstLine : line.Length != 0 && !TryTake(line))
                    throw new FormatException(number == 1 ? $"it must be \"{CallRecording.FirstLine}\"" : "it is out of place");
            }
            catch (FormatException failure)
            {
                // The value at fault is in the message; where it stands is not.
                throw Malformed(number, failure.Message);
            }
        }

        if (_case is not null)
            throw Malformed(number, $"the file ends inside the case {_case}");
        if (_kernel is null || _profile is null)
            throw Malformed(number, "the file names no kernel or no profile");
        return new CallRecording(_kernel, _profile, _devices, _cases, _skipped);
    }

    private static FormatException Malformed(int line, string why) =>
        new($"Line {line} of the recording is malformed: {why}.");

    private bool TryTake(string line)
    {
        int space = line.IndexOf(' ', StringComparison.Ordinal);
        string word = space < 0 ? line : line[..space];
        string rest = space < 0 ? "" : line[(space + 1)..];
        return _case is null ? TryTakeHeader(word, rest) : TakeStep(word, rest, line);
    }

    private bool TryTakeHeader(string word, string rest)
    {
        string[] parts = rest.Split(' ');
        switch (word)
        {
            case "kernel" when parts.Length == 2:
                _kernel = new KernelIdentity(parts[0], parts[1]);
                return true;
            case "profile" when parts.Length == 1 && rest.Length != 0:
                _profile = rest;
                return true;
            case "device" when parts.Length == 3:
                _devices.Add(new RecordedDevice(parts[0], parts[1], parts[2]));
                return true;
            case "skipped" when parts.Length > 1:
                _skipped.Add((parts[0], rest[(parts[0].Length + 1)..]));
                return true;
            case "case" when parts.Length == 1 && rest.Length != 0:
                _case = rest;
                return true;
            default:
                return false;
        }
    }

    private bool TakeStep(string word, string rest, string line)
    {
        switch (word)
        {
            case "stored":
                _stored.Add(Change(rest));
                break;
            case "wrote":
                if (_stored.Count != 0 || _steps.Count == 0)
                    return false;
                _steps[^1] = _steps[^1] with { Written = [.. _steps[^1].Written, Change(rest)] };
                break;
            case "end":
                if (_stored.Count != 0 || rest.Length != 0)
                    return false;
                _cases.Add(new RecordedCase(_case!, _steps));
                _steps = [];
                _case = null;
                break;
            default:
                RecordedCall call = RecordedCall.Parse(line);
                Check(call);
                _steps.Add(new RecordedStep(_stored, call, []));
                _stored = [];
                break;
        }

        return true;
    }

    private MemoryChange Change(string rest)
    {
        string[] parts = rest.Split(' ');
        if (parts.Length != 2 || !parts[0].StartsWith("0x", StringComparison.Ordinal) || !ulong.TryParse(
            parts[0].AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong address))
        {
            throw new FormatException("a change of memory is an address and bytes");
        }

        byte[] bytes = RecordedBytes.Parse(parts[1]);
        Count(bytes.Length);
        if (address % sizeof(ulong) != 0 || bytes.Length % sizeof(ulong) != 0 || bytes.Length == 0)
            throw new FormatException("a change of memory consists of whole words");
        return new MemoryChange(address, bytes);
    }

    /// <summary>Everything that the replay relies on: names, counts, and sizes that it will allocate.</summary>
    private void Check(RecordedCall call)
    {
        Count((call.In?.Length ?? 0) + (call.Out?.Length ?? 0));
        (string numbers, bool hasText, bool given, bool returned) = call.Name switch
        {
            "open" or "memfd_create" => ("u", true, false, false),
            "close" or "dup" or "fsync" => ("i", false, false, false),
            "userfaultfd" => ("u", false, false, false),
            "ioctl" => ("iu", false, true, true),
            "ioctl_value" => ("iul", false, false, false),
            "read" => ("il", false, false, true),
            "write" => ("i", false, true, false),
            "pread" => ("ill", false, false, true),
            "pwrite" => ("il", false, true, false),
            "mmap" => ("luuil", false, false, false),
            "munmap" => ("ll", false, false, false),
            "madvise" => ("llu", false, false, false),
            "ftruncate" => ("il", false, false, false),
            "lseek" => ("ilu", false, false, false),
            "eventfd" => ("uu", false, false, false),
            "poll" when call.Numbers.Count % 3 == 1 =>
                (string.Concat("i", string.Concat(Enumerable.Repeat("iss", call.Numbers.Count / 3))), false, false, false),
            _ => throw new FormatException($"there is no call \"{Shorten(call.Name)}\" of this form"),
        };
        if (call.Numbers.Count != numbers.Length || call.Text is not null != hasText || call.In is not null != given
            || call.Out is not null != returned || !call.Numbers.Zip(numbers).All(pair => Fits(pair.First, pair.Second)))
        {
            throw new FormatException($"a call of {call.Name} has other arguments");
        }

        CheckSizes(call);
    }

    private static void CheckSizes(RecordedCall call)
    {
        if (call.Name is "read" or "pread" && call.Numbers[1] is < 0 or > RecordedBytes.Most)
            throw new FormatException($"a buffer of {call.Numbers[1]} bytes is longer than {RecordedBytes.Most}");
        if (call.Name == "ioctl" && call.In!.Length != call.Out!.Length)
            throw new FormatException("an argument came back with another length");
        if (!call.Result.Succeeded)
            return;
        if (call.Name == "mmap")
            CheckRegion(call.Result.Value, call.Numbers[0]);
        else if (call.Name == "munmap")
            CheckRegion(call.Numbers[0], call.Numbers[1]);
        else if (call.Name == "ftruncate" && call.Numbers[1] is < 0 or > LongestRegion)
            throw new FormatException($"a memory file of {call.Numbers[1]} bytes is longer than {LongestRegion}");
    }

    private static void CheckRegion(long address, long byteLength)
    {
        if (byteLength is <= 0 or > LongestRegion)
            throw new FormatException($"a region of {byteLength} bytes is empty or longer than {LongestRegion}");
        if (address is <= 0 or > HighestAddress || address % GuestPage.Size != 0)
            throw new FormatException($"0x{address:x} is no address of a region");
    }

    /// <param name="width">How wide the parameter is: l 64 bits, u 32 without sign, i 32, s 16.</param>
    private static bool Fits(long number, char width) => width switch
    {
        'u' => number is >= 0 and <= uint.MaxValue,
        'i' => number is >= int.MinValue and <= int.MaxValue,
        's' => number is >= short.MinValue and <= short.MaxValue,
        _ => true,
    };

    private static string Shorten(string name) => name.Length > 40 ? name[..40] + "..." : name;

    private void Count(int bytes)
    {
        _bytes += bytes;
        if (_bytes > MostBytes)
            throw new FormatException($"the values before stand for more than {MostBytes} bytes");
    }
}
