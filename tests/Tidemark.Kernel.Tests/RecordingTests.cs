using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Recording;

namespace Tidemark.Kernel.Tests;

/// <summary>Recordings with memory, their form, and their replay, on the host's own kernel.</summary>
public sealed class RecordingTests
{
    private const int Page = 4096;

    [Theory]
    [InlineData("", "")]
    [InlineData("00", "00")]
    [InlineData("0000", "0000")]
    [InlineData("000000", "(3)")]
    [InlineData("28000000070000000100", "28(3)07(3)0100")]
    [InlineData("ffffffff", "ffffffff")]
    [InlineData("ffffffffff01", "(5:ff)01")]
    public void Runs_of_bytes_are_written_short(string hex, string text)
    {
        Assert.Equal(text, RecordedBytes.ToText(Convert.FromHexString(hex)));
        Assert.Equal(hex, Convert.ToHexStringLower(RecordedBytes.Parse(text)));
        Assert.Equal(hex, Convert.ToHexStringLower(RecordedBytes.Parse(hex)));
    }

    [Theory]
    [InlineData("0")]
    [InlineData("zz")]
    [InlineData("(")]
    [InlineData("(3")]
    [InlineData("()")]
    [InlineData("(-1)")]
    [InlineData("(3:)")]
    [InlineData("(3:123)")]
    [InlineData("(99999999999)")]
    [InlineData("(16777216)(1)")]
    public void Bytes_that_are_none_are_refused(string text) =>
        Assert.Throws<FormatException>(() => RecordedBytes.Parse(text));

    [Fact]
    public void Memory_is_recorded_around_each_call_and_replayed_equally()
    {
        CallRecording recording = Record();
        RecordedCase recorded = Assert.Single(recording.Cases);
        Assert.Contains(recorded.Steps, step => step.Stored.Count != 0);
        // What DONTNEED took away counts as written by the kernel.
        RecordedStep discarded = recorded.Steps.Single(step => step.Call.Name == "madvise");
        Assert.Equal(new byte[8], Assert.Single(discarded.Written).Bytes);
        CallRecording read = CallRecording.Parse(recording.ToText());
        Assert.Equal(recording.ToText(), read.ToText());
        Assert.Null(new TraceReplay(new LinuxKernel(), read, []).Play(read.Cases[0]));
    }

    [Theory]
    [InlineData("read 6 8 out=05(7) = 8", "read 6 8 out=06(7) = 8")]
    [InlineData(" = -1 9", " = -1 22")]
    [InlineData("wrote 0x", "stored 0x")]
    public void A_recording_that_says_otherwise_is_found_out(string truth, string lie)
    {
        string text = Record().ToText();
        // Whatever numbers the descriptors had.
        string known = System.Text.RegularExpressions.Regex.Replace(text, "read [0-9]+ 8 out", "read 6 8 out");
        Assert.Contains(truth, known, StringComparison.Ordinal);
        text = truth.StartsWith("read", StringComparison.Ordinal)
            ? System.Text.RegularExpressions.Regex.Replace(text, "(read [0-9]+ 8 out=)05", "${1}06")
            : text.Replace(truth, lie, StringComparison.Ordinal);
        CallRecording recording = CallRecording.Parse(text);
        ReplayMismatch? mismatch = new TraceReplay(new LinuxKernel(), recording, []).Play(recording.Cases[0]);
        Assert.NotNull(mismatch);
        Assert.Equal("a", mismatch.Case);
    }

    [Fact]
    public void Whatever_is_cut_off_or_changed_is_one_clear_error_or_a_recording()
    {
        string text = Record().ToText();
        var random = new Random(7);
        for (int round = 0; round < 3000; round++)
        {
            char[] changed = text.ToCharArray();
            for (int count = random.Next(1, 4); count > 0; count--)
                changed[random.Next(changed.Length)] = (char)random.Next(10, 127);
            string garbage = new string(changed)[..random.Next(changed.Length)];
            try
            {
                CallRecording.Parse(garbage);
            }
            catch (FormatException failure)
            {
                // The one that there may be.
                Assert.Contains("ecording", failure.Message, StringComparison.Ordinal);
            }
        }
    }

    [Theory]
    [InlineData("tidemark recording 2")]
    [InlineData("case a\nend\n")]
    [InlineData("case a\nclose 5 = 0\n")]
    [InlineData("case a\nclose 99999999999 = 0\nend\n")]
    [InlineData("case a\nclose x = 0\nend\n")]
    [InlineData("case a\nnothing 5 = 0\nend\n")]
    [InlineData("case a\nread 5 99999999999 out= = 0\nend\n")]
    [InlineData("case a\nmmap 9223372036854775807 3 34 -1 0 = 4096\nend\n")]
    [InlineData("case a\nmmap 4096 3 34 -1 0 = -1\nend\n")]
    [InlineData("case a\nstored 0x1001 (8)\nclose 5 = 0\nend\n")]
    [InlineData("case a\nstored 0x1000 (7)\nclose 5 = 0\nend\n")]
    [InlineData("case a\nwrote 0x1000 (8)\nend\n")]
    [InlineData("case a\nioctl 5 6 in=00 out=0000 = 0\nend\n")]
    [InlineData("case a\nioctl 5 6 out=in = 0\nend\n")]
    [InlineData("case a\nclose 5 = -1 99999\nend\n")]
    [InlineData("end\n")]
    public void What_is_no_recording_is_told_with_its_line(string text)
    {
        string whole = text.StartsWith("tidemark", StringComparison.Ordinal) ? text
            : $"tidemark recording 1\nkernel soft 1\n{(text.Length < 20 && text != "end\n" ? "" : "profile x\n")}{text}";
        FormatException failure = Assert.Throws<FormatException>(() => CallRecording.Parse(whole));
        Assert.Matches("^Line [0-9]+ of the recording is malformed: .+\\.$", failure.Message);
    }

    [Theory]
    [InlineData("open 0 text=/etc/passwd = 5")]
    [InlineData("open 0 text=/dev/vfio/../../etc/passwd = 5")]
    [InlineData("munmap 1048576 4096 = 0")]
    [InlineData("madvise 1048576 4096 4 = 0")]
    [InlineData("stored 0x100000 (8)\nclose 5 = 0")]
    public void A_recording_that_reaches_beyond_what_is_its_own_is_refused(string line)
    {
        CallRecording recording = CallRecording.Parse(
            $"tidemark recording 1\nkernel soft 1\nprofile x\ncase a\n{line}\nend\n");
        Assert.Throws<FormatException>(() => new TraceReplay(new LinuxKernel(), recording, []).Play(recording.Cases[0]));
    }

    [Theory]
    [InlineData("eventfd 0 0 = 5\nread 5 8 out=01(7) = 8\n")]
    [InlineData("eventfd 0 0 = 5\nread 5 8 out= = -1 22\n")]
    [InlineData("eventfd 0 0 = 5\ndup 5 = 6\nread 6 8 out= = 0\n")]
    [InlineData("eventfd 0 0 = 5\npoll -1 5 1 1 = 1\n")]
    public void A_call_that_would_wait_for_ever_is_a_difference(string calls)
    {
        CallRecording recording = CallRecording.Parse(
            $"tidemark recording 1\nkernel soft 1\nprofile x\ncase a\n{calls}end\n");
        Assert.NotNull(new TraceReplay(new LinuxKernel(), recording, []).Play(recording.Cases[0]));
    }

    private static CallRecording Record()
    {
        var steps = new List<RecordedStep>();
        RecordingKernel kernel = RecordingKernel.WithMemory(new LinuxKernel(), steps.Add);
        var memory = Mapping.CreateAnonymous(kernel, 4 * Page);
        int counter = (int)kernel.Eventfd(5, EventfdFlags.NonBlocking | EventfdFlags.CloseOnExec).Value;
        int file = (int)kernel.MemfdCreate("recorded", MemfdFlags.CloseOnExec).Value;
        kernel.Ftruncate(file, Page);
        memory.Bytes(0, 8).Fill(7);
        BitConverter.TryWriteBytes(memory.Bytes(Page, 8), memory.Address.Value + Page);
        kernel.Read(counter, new byte[8]);
        kernel.Pwrite(file, [1, 2, 3], 100);
        kernel.Pread(file, new byte[5], 99);
        kernel.Madvise(memory.Address.Value, Page, MemoryAdvice.DontNeed);
        kernel.Close(9999);
        kernel.Close(file);
        kernel.Close(counter);
        memory.Dispose();
        return new CallRecording(kernel.Identity, "x", [], [new RecordedCase("a", steps)], []);
    }
}
