using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Unmapping: whole mappings only, and what is left when it stops half way.</summary>
internal static class IoasUnmapCases
{
    private const string Area = "ioas-unmap";

    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, Area, "iommufd.ioas.unmap", "iommufd.h, iommu_ioas_unmap");
        table.Errors<IommuIoasUnmap>(
            run =>
            {
                run.Map(Iova, 4 * Page);
                return IommuIoasUnmap.Create(run.Ioas, Iova, 4 * Page);
            },
            Calls.Iommufd,
            new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
            new("ioas-id-0", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 0),
            new("highest-iova", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue),
            new("highest-length", "length", Errno.EOVERFLOW, (_, ref argument) => argument.Length = ulong.MaxValue),
            new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
            new("range-wraps", "iova length", Errno.EOVERFLOW,
                (_, ref argument) => argument.Iova = ulong.MaxValue - Page + 1),
            new("first-half", "length iova", Errno.ENOENT, (_, ref argument) => argument.Length = 2 * Page),
            new("second-half", "length iova", Errno.ENOENT, (_, ref argument) => argument.Iova = Iova + (2 * Page)),
            new("middle", "length iova", Errno.ENOENT, (_, ref argument) =>
            {
                argument.Iova = Iova + Page;
                argument.Length = Page;
            }),
            new("nothing-there", "iova length", Errno.ENOENT, (_, ref argument) => argument.Iova = Iova + 0x100_0000));
        AddRanges(new CaseTable(cases, Area, "iommufd.ioas.unmap", "kernel behaviour, unmapping ranges"));
        AddPartial(new CaseTable(cases, Area, "iommufd.ioas.unmap.partial",
            "kernel behaviour, unmapping that stops half way"));
    }

    private static void AddRanges(CaseTable table)
    {
        table.Add("tells-the-length", "the bytes that were mapped are told", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + (4 * Page), 2 * Page);
            run.Answers(run.Unmap(Iova - Page, 16 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(3 * Page, unmapped, "what was unmapped");
        });
        table.Add("everything", "the range of all IOVAs unmaps everything", run =>
        {
            run.Map(0, Page);
            run.Map(Iova, 2 * Page);
            run.Answers(run.Unmap(0, ulong.MaxValue, out ulong unmapped), Errno.Success, "unmapping everything");
            run.Equal(3 * Page, unmapped, "what was unmapped");
        });
        table.Add("everything-of-nothing", "the range of all IOVAs is accepted when nothing is mapped", run =>
        {
            run.Answers(run.Unmap(0, ulong.MaxValue, out ulong unmapped), Errno.Success, "unmapping everything");
            run.Equal(0ul, unmapped, "what was unmapped");
        });
        table.Add("nearly-everything-of-nothing", "any other range with nothing in it is ENOENT", run =>
            run.Answers(run.Unmap(0, ulong.MaxValue - 1, out _), Errno.ENOENT, "unmapping"));
        table.Add("unaligned-range", "neither end needs to be aligned", run =>
        {
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova - 7, Page + 16, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(Page, unmapped, "what was unmapped");
        });
        table.Add("twice", "what was unmapped is not there any more", run =>
        {
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.ENOENT, "unmapping again");
        });
        table.Add("iova-is-free-again", "the IOVA can be mapped again", run =>
        {
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Map(Iova, Page);
        });
        table.Add("neighbours-stay", "mappings outside the range stay", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + Page, Page);
            run.Map(Iova + (2 * Page), Page);
            run.Answers(run.Unmap(Iova + Page, Page, out _), Errno.Success, "unmapping the middle");
            run.Answers(run.Unmap(Iova, 3 * Page, out ulong rest), Errno.Success, "unmapping the rest");
            run.Equal(2 * Page, rest, "what was left");
        });
        table.Add("other-ioas-stays", "the same IOVA of another IOAS stays", run =>
        {
            uint other = run.CreateIoas();
            run.Map(Iova, Page);
            run.Map(Iova, Page, ioas: other);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(run.Unmap(Iova, Page, out _, other), Errno.Success, "unmapping in the other IOAS");
        });
        table.Add("top-of-space", "the highest page can be unmapped", run =>
        {
            run.Map(ulong.MaxValue - Page + 1, Page);
            run.Answers(run.Unmap(ulong.MaxValue - Page + 1, Page, out _), Errno.Success, "unmapping");
        });
        table.Add("under-a-device", "mappings can be unmapped while a device is attached", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Map(Iova, 4 * Page);
            run.Answers(run.Unmap(Iova, 4 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(4 * Page, unmapped, "what was unmapped");
        });
    }

    private static void AddPartial(CaseTable table)
    {
        table.Add("keeps-the-cut-mapping", "a mapping that is only partly in the range stays whole", run =>
        {
            run.Map(Iova, 4 * Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.ENOENT, "unmapping part");
            run.Answers(run.Unmap(Iova, 4 * Page, out ulong unmapped), Errno.Success, "unmapping all");
            run.Equal(4 * Page, unmapped, "what was left");
        });
        table.Add("earlier-mappings-are-gone", "mappings before the one that is cut are unmapped all the same", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + Page, 2 * Page);
            run.Answers(run.Unmap(Iova, 2 * Page, out _), Errno.ENOENT, "unmapping into a mapping");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.ENOENT, "unmapping the first one");
            run.Answers(run.Unmap(Iova + Page, 2 * Page, out _), Errno.Success, "unmapping the second one");
        });
        table.Add("later-mappings-stay", "mappings after the one that is cut stay", run =>
        {
            run.Map(Iova - Page, 2 * Page);
            run.Map(Iova + Page, Page);
            run.Answers(run.Unmap(Iova, 2 * Page, out _), Errno.ENOENT, "unmapping from inside a mapping");
            run.Answers(run.Unmap(Iova + Page, Page, out _), Errno.Success, "unmapping the later one");
        });
        table.Add("length-is-as-given", "a refusal leaves the length of the argument as it was", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + Page, 2 * Page);
            run.Answers(run.Unmap(Iova, 2 * Page, out ulong length), Errno.ENOENT, "unmapping into a mapping");
            run.Equal(2 * Page, length, "the length");
        });
    }
}
