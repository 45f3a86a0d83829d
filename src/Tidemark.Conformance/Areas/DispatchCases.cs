using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// How requests reach their handlers: numbers, and the sizes of extensible arguments. Each command is called with one
/// mistake that its handler finds first, so that its own errno tells that the handler ran.
/// </summary>
internal static class DispatchCases
{
    private const string Area = "dispatch";
    private const int Tail = 8;

    /// <summary>Every command: struct sizes, and where to write what for which answer.</summary>
    private static readonly Command[] Commands =
    [
        new("destroy", IommufdRequests.Destroy, 8, 8, 4, 0, Errno.ENOENT),
        new("ioas-alloc", IommufdRequests.IoasAlloc, 12, 12, 4, 1, Errno.EOPNOTSUPP),
        new("ioas-allow-iovas", IommufdRequests.IoasAllowIovas, 24, 24, 12, 1, Errno.EOPNOTSUPP),
        new("ioas-copy", IommufdRequests.IoasCopy, 40, 40, 4, 8, Errno.EOPNOTSUPP),
        new("ioas-iova-ranges", IommufdRequests.IoasIovaRanges, 32, 32, 12, 1, Errno.EOPNOTSUPP),
        new("ioas-map", IommufdRequests.IoasMap, 40, 40, 4, 8, Errno.EOPNOTSUPP),
        new("ioas-unmap", IommufdRequests.IoasUnmap, 24, 24, 4, 0, Errno.ENOENT),
        new("option", IommufdRequests.Option, 24, 24, 8, 1 << 16, Errno.EOPNOTSUPP),
        new("vfio-ioas", IommufdRequests.VfioIoas, 12, 12, 8, 1 << 16, Errno.EOPNOTSUPP),
        new("hwpt-alloc", IommufdRequests.HwptAlloc, 48, 24, 20, 1, Errno.EOPNOTSUPP),
        new("get-hw-info", IommufdRequests.GetHwInfo, 40, 32, 4, 2, Errno.EOPNOTSUPP),
        new("hwpt-set-dirty-tracking", IommufdRequests.HwptSetDirtyTracking, 16, 16, 4, 2, Errno.EOPNOTSUPP),
        new("hwpt-get-dirty-bitmap", IommufdRequests.HwptGetDirtyBitmap, 48, 48, 8, 2, Errno.EOPNOTSUPP),
        new("hwpt-invalidate", IommufdRequests.HwptInvalidate, 32, 32, 28, 1, Errno.EOPNOTSUPP),
        new("fault-queue-alloc", IommufdRequests.FaultQueueAlloc, 16, 16, 4, 1, Errno.EOPNOTSUPP),
        new("ioas-map-file", IommufdRequests.IoasMapFile, 40, 40, 4, 8, Errno.EOPNOTSUPP),
        new("viommu-alloc", IommufdRequests.ViommuAlloc, 40, 24, 4, 1, Errno.EOPNOTSUPP),
        new("vdevice-alloc", IommufdRequests.VdeviceAlloc, 24, 24, 4, 0, Errno.ENOENT),
        new("ioas-change-process", IommufdRequests.IoasChangeProcess, 8, 8, 4, 1, Errno.EOPNOTSUPP),
        new("veventq-alloc", IommufdRequests.VeventqAlloc, 32, 28, 4, 1, Errno.EOPNOTSUPP),
        new("hw-queue-alloc", IommufdRequests.HwQueueAlloc, 40, 40, 4, 1, Errno.EOPNOTSUPP),
        new("ioas-noiommu-get-pa", IommufdRequests.IoasNoiommuGetPa, 40, 40, 4, 1, Errno.EOPNOTSUPP),
    ];

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach (Command command in Commands)
            AddCommand(new CaseTable(cases, Area, $"iommufd.dispatch.{command.Name}", $"iommufd.h, {command.Request}"),
                command);
        AddNumbers(new CaseTable(cases, Area, "iommufd.dispatch.number", "kernel behaviour, dispatch of /dev/iommu"));
    }

    private static void AddCommand(CaseTable table, Command command)
    {
        table.Add("size-below-minimum", "a size one less than the end of the last required field is EINVAL", run =>
            Answers(run, command, command.Minimum - 1, command.Size, 0, Errno.EINVAL));
        if (command.Minimum != command.Size)
        {
            table.Add("size-minimum", "the smallest size is accepted, and fields beyond it count as 0", run =>
                Answers(run, command, command.Minimum, command.Size, 0, command.Answer));
        }

        table.Add("size-exact", "the size of the struct is accepted", run =>
            Answers(run, command, command.Size, command.Size, 0, command.Answer));
        table.Add("size-larger-zero-tail", "a larger size is accepted when all bytes beyond the struct are 0", run =>
            Answers(run, command, command.Size + Tail, command.Size + Tail, 0, command.Answer));
        table.Add("size-larger-non-zero-tail", "a larger size is E2BIG when a byte beyond the struct is not 0", run =>
            Answers(run, command, command.Size + Tail, command.Size + Tail, 1, Errno.E2BIG));
        table.Add("size-zero", "a size of 0 is EINVAL", run =>
            Answers(run, command, 0, command.Size, 0, Errno.EINVAL));
        table.Add("null-pointer", "an argument that can not be read is EFAULT", run =>
        {
            RequireCommand(run, command);
            run.Answers(
                run.Kernel.IoctlValue(run.Iommufd.Number, command.Request.Value, 0).Errno, Errno.EFAULT,
                $"{command.Request} with a null pointer");
        });
    }

    private static void AddNumbers(CaseTable table)
    {
        (string Name, uint Number)[] unknown =
        [
            ("below-the-table", 0x3B7F), ("beyond-the-table", 0x3B9F), ("last-of-the-byte", 0x3BFF),
            ("other-type", 0x3A81), ("with-direction", 0xC000_3B81), ("with-size", 0x000C_3B81),
            ("as-if-encoded-with-iowr", 0xC00C_3B81),
        ];
        foreach ((string name, uint number) in unknown)
        {
            table.Add(name, $"the request 0x{number:x} is ENOTTY", run =>
            {
                IommuIoasAlloc allocate = IommuIoasAlloc.Create();
                byte[] argument = new byte[IommuIoasAlloc.StructSize];
                BinaryPrimitives.WriteUInt32LittleEndian(argument, allocate.Size);
                run.Answers(
                    run.Kernel.Ioctl(run.Iommufd.Number, number, argument).Errno, Errno.ENOTTY,
                    $"request 0x{number:x}");
            });
        }

        table.Add("null-pointer-before-direction", "the size is read before the whole number is compared", run =>
            run.Answers(
                run.Kernel.IoctlValue(run.Iommufd.Number, 0xC000_3B81, 0).Errno, Errno.EFAULT,
                "request 0xc0003b81 with a null pointer"));
    }

    private static void Answers(CaseRun run, Command command, int size, int length, byte tail, Errno expected)
    {
        RequireCommand(run, command);
        byte[] argument = Argument(command, size, length);
        if (tail != 0)
            argument[^1] = tail;
        Errno answer = run.Kernel.Ioctl(run.Iommufd.Number, command.Request.Value, argument).Errno;
        // Without CAP_SYS_RAWIO this one command is refused before it looks at anything.
        if (answer == Errno.EPERM && command.Request == IommufdRequests.IoasNoiommuGetPa)
            throw CaseRun.NotApplicable($"{command.Request} needs CAP_SYS_RAWIO.");
        run.Answers(answer, expected, $"{command.Request} with a size of {size}");
    }

    /// <summary>
    /// Commands came one release after the other: one that this kernel has never heard of is no failure.
    /// </summary>
    private static void RequireCommand(CaseRun run, Command command)
    {
        byte[] argument = Argument(command, command.Size, command.Size);
        bool old = command.Request.Value <= IommufdRequests.VfioIoas.Value;
        if (!old && run.Kernel.Ioctl(run.Iommufd.Number, command.Request.Value, argument).Errno == Errno.ENOTTY)
            throw CaseRun.NotApplicable($"This kernel does not have {command.Request}.");
    }

    private static byte[] Argument(Command command, int size, int length)
    {
        byte[] argument = new byte[length];
        BinaryPrimitives.WriteInt32LittleEndian(argument, size);
        BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(command.MistakeAt), command.Mistake);
        return argument;
    }

    /// <param name="MistakeAt">Offset of a 32-bit word, and what to write there so that the handler answers so.</param>
    private sealed record Command(
        string Name, IoctlRequest Request, int Size, int Minimum, int MistakeAt, int Mistake, Errno Answer);
}
