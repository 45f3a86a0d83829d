using Tidemark.Abi;
using Tidemark.Kernel.Linux;

namespace Tidemark.Kernel.Tests;

public sealed class FaultInjectingKernelTests
{
    [Fact]
    public void Each_call_fails_in_its_turn_without_reaching_the_kernel_and_no_other_does()
    {
        var counting = new FaultInjectingKernel(new ScriptedKernel());
        EveryCall.Make(counting);
        Assert.Equal(EveryCall.FailableCount, counting.CallCount);
        Assert.Null(counting.FailedCall);
        for (int nth = 1; nth <= EveryCall.FailableCount; nth++)
        {
            var inner = new ScriptedKernel();
            var kernel = new FaultInjectingKernel(inner);
            kernel.FailNth(nth, Errno.ENOMEM);
            List<SyscallResult> results = EveryCall.Make(kernel);
            SyscallResult failed = Assert.Single(results, result => !result.Succeeded);
            Assert.Equal(SyscallResult.Fail(Errno.ENOMEM), failed);
            Assert.Equal(nth - 1, results.IndexOf(failed));
            Assert.Equal(results.Count - 1, inner.Calls.Count);
            Assert.NotNull(kernel.FailedCall);
        }
    }

    [Fact]
    public void Releasing_calls_never_fail_and_do_not_count()
    {
        var kernel = new FaultInjectingKernel(new ScriptedKernel());
        kernel.FailNth(1, Errno.EIO);
        Assert.True(kernel.Close(3).Succeeded);
        Assert.True(kernel.Munmap(0x1000, 4096).Succeeded);
        Assert.Equal(0, kernel.CallCount);
        Assert.False(kernel.Open("/x", OpenFlags.ReadOnly).Succeeded);
        Assert.Equal("open /x", kernel.FailedCall);
        Assert.True(kernel.Open("/x", OpenFlags.ReadOnly).Succeeded);
        kernel.FailNth(2, Errno.EIO);
        Assert.True(kernel.Ioctl(3, 0x3b85, []).Succeeded);
        Assert.False(kernel.Ioctl(3, 0x3b85, []).Succeeded);
        Assert.Equal("ioctl 0x3b85", kernel.FailedCall);
    }
}

public sealed class RecordingKernelTests
{
    [Fact]
    public void Every_call_survives_the_way_to_text_and_back()
    {
        var calls = new List<RecordedCall>();
        var kernel = new RecordingKernel(
            new ScriptedKernel
            {
                OnIoctl = static (_, _, argument) =>
                {
                    argument[7] = 9;
                    return SyscallResult.Fail(Errno.EINVAL);
                },
            },
            calls.Add);
        List<SyscallResult> results = EveryCall.Make(kernel);
        Assert.Equal(results, calls.Select(call => call.Result));
        foreach (RecordedCall call in calls)
        {
            string line = call.ToLine();
            Assert.DoesNotContain('\n', line);
            RecordedCall back = RecordedCall.Parse(line);
            Assert.Equal(line, back.ToLine());
            Assert.Equal(
                (call.Name, call.Text, call.Result, true, true),
                (back.Name, back.Text, back.Result, Same(call.In, back.In), Same(call.Out, back.Out)));
            Assert.Equal(call.Numbers, back.Numbers);
        }
    }

    [Fact]
    public void Lines_are_stable()
    {
        var lines = new List<string>();
        var kernel = new RecordingKernel(
            new ScriptedKernel
            {
                OnIoctl = static (_, _, argument) =>
                {
                    argument[0] = 0xff;
                    return SyscallResult.Ok(1);
                },
            },
            call => lines.Add(call.ToLine()));
        kernel.Open("/a path/é%=", OpenFlags.ReadWrite);
        kernel.Ioctl(3, 0x3b80, [8, 0, 1]);
        kernel.Read(3, new byte[4]);
        kernel.Pwrite(3, [], ulong.MaxValue);
        kernel.Poll([new PollDescriptor(3, PollEvents.In, PollEvents.None)], -1);
        Assert.Equal(
            [
                "open 2 text=/a%20path/%C3%A9%25%3D = 3",
                "ioctl 3 15232 in=080001 out=ff0001 = 1",
                "read 3 4 out=7272 = 2",
                "pwrite 3 -1 in= = 0",
                "poll -1 3 1 1 = 1",
            ],
            lines);
    }

    [Theory]
    [InlineData("")]
    [InlineData("open")]
    [InlineData("open = ")]
    [InlineData("open x = 1")]
    [InlineData("open 1 in=0 = 1")]
    [InlineData("open 1 = 1 2 3")]
    [InlineData(" = 1")]
    public void A_line_that_is_no_call_is_refused(string line) =>
        Assert.Throws<FormatException>(() => RecordedCall.Parse(line));

    [Fact]
    public void A_real_kernel_can_be_recorded()
    {
        var lines = new List<string>();
        var kernel = new RecordingKernel(new LinuxKernel(), call => lines.Add(call.ToLine()));
        using (var file = new KernelFd(kernel, (int)kernel.MemfdCreate("a b", MemfdFlags.CloseOnExec).Value))
        {
            kernel.Pwrite(file.Number, "hello"u8, 0);
            kernel.Pread(file.Number, new byte[8], 1);
            Assert.Equal($"pread {file.Number} 8 1 out=656c6c6f = 4", lines[2]);
        }

        Assert.StartsWith("memfd_create 1 text=a%20b = ", lines[0], StringComparison.Ordinal);
        Assert.StartsWith("close ", lines[3], StringComparison.Ordinal);
    }

    private static bool Same(byte[]? left, byte[]? right) =>
        left is null ? right is null : right is not null && left.AsSpan().SequenceEqual(right);
}
