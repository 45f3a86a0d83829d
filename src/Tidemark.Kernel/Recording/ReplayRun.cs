using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Abi;

namespace Tidemark.Kernel.Recording;

/// <summary>A case while it is replayed.</summary>
internal sealed class ReplayRun(IKernel kernel, ReplayNames names)
{
    private readonly ReplayCalls _calls = new(kernel, names);
    private readonly WatchedMemory _memory = new(kernel);
    private readonly TraceDescriptors _kinds = new();

    /// <returns>What was answered instead, or null when all of it is equal.</returns>
    public string? Play(RecordedStep step)
    {
        foreach (MemoryChange change in step.Stored)
        {
            if (!_memory.TryStore(names.Address(change.Address), names.Words(change.Bytes)))
                throw new FormatException($"The recording stores to 0x{change.Address:x}, which is not its memory.");
        }

        _memory.TakeChanges();
        RecordedCall call = step.Call;
        TracedKind kind = call.Numbers.Count == 0 || call.Numbers[0] is < 0 or > int.MaxValue
            ? TracedKind.Other : _kinds[(int)call.Numbers[0]];
        IReadOnlyList<WatchedRegion> forgotten = call.Name == "munmap"
            ? _memory.Forget(names.Address(Unsigned(call.Numbers[0])), Unsigned(call.Numbers[1])) : [];
        ReplayAnswer answer = _calls.Make(call, kind);
        if (!answer.Call.Result.Succeeded)
            _memory.Restore(forgotten);
        _memory.Learn(answer.Call);
        Learn(call);
        return Compare(call, answer) ?? CompareMemory(step.Written);
    }

    /// <summary>A recorded call in words.</summary>
    public string Describe(RecordedCall call)
    {
        if (call.Name != "ioctl")
        {
            string line = call.ToLine();
            return line.Length > 200 ? line[..200] + "..." : line;
        }

        TracedKind kind = _kinds[(int)call.Numbers[0]];
        uint request = (uint)call.Numbers[1];
        string? name = TraceIoctl.NameOf(kind, request);
        string argument = name is null
            ? RecordedBytes.ToText(call.In) + (call.In.AsSpan().SequenceEqual(call.Out) ? "" : $" => {RecordedBytes.ToText(call.Out)}")
            : TraceIoctl.Argument(name, call.In, call.Out);
        return $"ioctl({call.Numbers[0]}, {name ?? TraceValues.Hex(request)}, {argument}) = {Show(call.Result)}";
    }

    public void CleanUp()
    {
        foreach (int fd in names.Descriptors)
            kernel.Close(fd);
        foreach ((ulong address, ulong byteLength) in names.Regions)
            kernel.Munmap(address, byteLength);
        _memory.Close();
    }

    private static ulong Unsigned(long number) => unchecked((ulong)number);

    private static string Show(SyscallResult result) =>
        result.Succeeded ? result.Value.ToString(CultureInfo.InvariantCulture) : $"-1 {TraceValues.Error(result.Errno)}";

    /// <summary>What descriptors of the recorded process are, so that their requests can be told apart.</summary>
    private void Learn(RecordedCall call)
    {
        switch (call.Name)
        {
            case "open":
                _kinds.Opened(call.Result, call.Text!);
                break;
            case "dup":
                _kinds.Duplicated(call.Result, (int)call.Numbers[0]);
                break;
            case "close":
                _kinds.Closed((int)call.Numbers[0]);
                break;
            case "ioctl" when call.Result.Succeeded:
                TracedKind kind = _kinds[(int)call.Numbers[0]];
                uint request = (uint)call.Numbers[1];
                if (TraceIoctl.NameOf(kind, request) == VfioRequests.GroupGetDeviceFd.Name)
                    _kinds.Made(call.Result, TracedKind.VfioDevice);
                else if (kind == TracedKind.VfioDevice)
                    LearnStreams(call, kind, request);
                break;
        }
    }

    private void LearnStreams(RecordedCall call, TracedKind kind, uint request)
    {
        foreach (int offset in ArgumentDescriptors.Returned(kind, request, call.In!))
        {
            if (offset <= call.Out!.Length - sizeof(int))
            {
                int fd = BinaryPrimitives.ReadInt32LittleEndian(call.Out.AsSpan(offset));
                if (fd >= 0)
                    _kinds.Made(SyscallResult.Ok(fd), TracedKind.VfioMigrationData);
            }
        }
    }

    private string? Compare(RecordedCall recorded, ReplayAnswer answer)
    {
        SyscallResult result = answer.Call.Result;
        bool same = recorded.Result.Errno == result.Errno && (answer.NamesResult || recorded.Result.Value == result.Value);
        if (same && (answer.Expected is null || answer.Expected.AsSpan().SequenceEqual(answer.Call.Out)))
            return null;
        if (recorded.Name != "ioctl" || !same)
            return Show(result) + (same ? $" with {RecordedBytes.ToText(answer.Call.Out)}" : "");
        // In the recorded names again, so that only what differs differs.
        byte[] returned = [.. recorded.Out!];
        for (int index = 0; index < returned.Length; index++)
        {
            if (answer.Expected![index] != answer.Call.Out![index])
                returned[index] = answer.Call.Out[index];
        }

        return Describe(recorded with { Out = returned });
    }

    private string? CompareMemory(IReadOnlyList<MemoryChange> written)
    {
        List<MemoryChange> expected =
            [.. written.Select(change => new MemoryChange(names.Address(change.Address), names.Words(change.Bytes)))];
        List<MemoryChange> found = _memory.TakeChanges(expected.Select(change => change.Address));
        expected.Sort((first, second) => first.Address.CompareTo(second.Address));
        for (int index = 0; index < Math.Max(expected.Count, found.Count); index++)
        {
            MemoryChange? wanted = index < expected.Count ? expected[index] : null;
            MemoryChange? got = index < found.Count ? found[index] : null;
            if (wanted is null || got is null || wanted.Address != got.Address
                || !wanted.Bytes.AsSpan().SequenceEqual(got.Bytes))
            {
                return $"memory: {Show(got)} was written, recorded is {Show(wanted)}";
            }
        }

        return null;
    }

    private static string Show(MemoryChange? change) => change is null ? "nothing more"
        : $"{RecordedBytes.ToText(change.Bytes)} at 0x{change.Address:x}";
}
