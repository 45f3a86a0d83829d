using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// The five ways to give a device memory: both versions of type1, iommufd imitating each of them, and iommufd itself.
/// </summary>
internal static class LegacyModeCases
{
    private const string Area = "legacy-modes";

    private enum Mode
    {
        Type1,
        Type1V2,
        CompatType1,
        CompatType1V2,
        Iommufd,
    }

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach (Mode mode in Enum.GetValues<Mode>())
        {
            string name = mode switch
            {
                Mode.Type1 => "type1", Mode.Type1V2 => "type1v2", Mode.CompatType1 => "compat-type1",
                Mode.CompatType1V2 => "compat-type1v2", _ => "iommufd",
            };
            AddMappings(new CaseTable(cases, Area, $"legacy.mode.{name}", "kernel behaviour, memory of a device"), mode);
            AddWrites(new CaseTable(cases, Area, $"legacy.mode.{name}.dma", "kernel behaviour, DMA of a device"), mode);
        }
    }

    private static void AddMappings(CaseTable table, Mode mode)
    {
        table.Add("map-and-unmap", "what is mapped is unmapped once", run =>
        {
            Memory memory = Memory.Create(run, mode);
            run.Answers(memory.Map(Iova, run.MemoryAddress, 16 * Page), Errno.Success, "mapping");
            run.Answers(memory.Unmap(Iova, 16 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(16 * Page, unmapped, "what was unmapped");
            run.Answers(
                memory.Unmap(Iova, 16 * Page, out _), mode == Mode.Iommufd ? Errno.ENOENT : Errno.Success,
                "unmapping again");
        });
        table.Add("last-page", "the last page of the last range can be mapped and unmapped", run =>
        {
            Memory memory = Memory.Create(run, mode);
            ulong page = memory.LastPage();
            run.Answers(memory.Map(page, run.MemoryAddress, Page), Errno.Success, "mapping");
            run.Answers(memory.Unmap(page, Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(Page, unmapped, "what was unmapped");
        });
        table.Add("last-page-with-everything", "unmapping everything takes the last page too", run =>
        {
            Memory memory = Memory.Create(run, mode);
            run.Answers(memory.Map(memory.LastPage(), run.MemoryAddress, Page), Errno.Success, "mapping");
            run.Answers(memory.UnmapAll(out ulong unmapped), Errno.Success, "unmapping all");
            run.Equal(Page, unmapped, "what was unmapped");
        });
        table.Add("map-wraps", "a mapping across the end of the address space is EOVERFLOW", run => run.Answers(
            Memory.Create(run, mode).Map(ulong.MaxValue - Page + 1, run.MemoryAddress, 2 * Page), Errno.EOVERFLOW,
            "mapping"));
        table.Add("unmap-wraps", "unmapping across the end of the address space is EOVERFLOW", run => run.Answers(
            Memory.Create(run, mode).Unmap(ulong.MaxValue - Page + 1, 2 * Page, out _), Errno.EOVERFLOW, "unmapping"));
        table.Add("overlap", "what is mapped is not mapped again: EEXIST", run =>
        {
            Memory memory = Memory.Create(run, mode);
            run.Answers(memory.Map(Iova, run.MemoryAddress, 4 * Page), Errno.Success, "mapping");
            run.Answers(memory.Map(Iova + Page, run.MemoryAddress, Page), Errno.EEXIST, "mapping inside");
        });
        table.Add("bad-address", "what is no memory is not mapped: EFAULT", run => run.Answers(
            Memory.Create(run, mode).Map(Iova, BadAddress, Page), Errno.EFAULT, "mapping"));
        table.Add("part", "part of a mapping: refused, or all of it goes, or just that part", run =>
        {
            Memory memory = Memory.Create(run, mode);
            run.Answers(memory.Map(Iova, run.MemoryAddress, 4 * Page), Errno.Success, "mapping");
            Errno errno = memory.Unmap(Iova, Page, out ulong unmapped);
            Errno expected = mode switch
            {
                Mode.Type1 or Mode.CompatType1 => Errno.Success, Mode.Type1V2 => Errno.EINVAL, _ => Errno.ENOENT,
            };
            run.Answers(errno, expected, "unmapping the first page");
            if (mode == Mode.Type1)
                run.Equal(4 * Page, unmapped, "what was unmapped");
            if (mode == Mode.CompatType1)
                run.Equal(Page, unmapped, "what was unmapped");
        });
        table.Add("many", "sixteen mappings of a page go in any order", run =>
        {
            Memory memory = Memory.Create(run, mode);
            for (ulong page = 0; page < 16; page++)
            {
                run.Answers(
                    memory.Map(Iova + (page * Page), run.MemoryAddress + (page * Page), Page), Errno.Success, "mapping");
            }

            for (ulong step = 0; step < 16; step++)
            {
                // Every page once, far from the one before.
                ulong page = step * 7 % 16;
                run.Answers(
                    memory.Unmap(Iova + (page * Page), Page, out ulong unmapped), Errno.Success, "unmapping");
                run.Equal(Page, unmapped, "what was unmapped");
            }
        });
    }

    private static void AddWrites(CaseTable table, Mode mode)
    {
        table.Add("lands", "what a device writes is where its IOVA is mapped to, and nowhere else", run =>
        {
            Memory memory = Memory.Create(run, mode, DeviceNeed.WriterInGroup);
            run.Answers(memory.Map(Iova, run.MemoryAddress, 16 * Page), Errno.Success, "mapping");
            memory.StartWriter().Write(Iova + (5 * Page));
            run.Holds(run.Memory.Bytes(5 * Page, (int)Page).ContainsAnyExcept((byte)0), "page 5 to be written");
            run.Holds(!run.Memory.Bytes(0, 5 * (int)Page).ContainsAnyExcept((byte)0), "the pages before untouched");
            run.Holds(
                !run.Memory.Bytes(6 * Page, 10 * (int)Page).ContainsAnyExcept((byte)0), "the pages behind untouched");
        });
        table.Add("after-remapping", "an IOVA that is mapped anew leads to the new memory at once", run =>
        {
            Memory memory = Memory.Create(run, mode, DeviceNeed.WriterInGroup);
            run.Answers(memory.Map(Iova, run.MemoryAddress, Page), Errno.Success, "mapping");
            NvmeWriter writer = memory.StartWriter();
            writer.Write(Iova);
            run.Answers(memory.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Memory.Bytes(0, (int)Page).Clear();
            run.Answers(memory.Map(Iova, run.MemoryAddress + (8 * Page), Page), Errno.Success, "mapping again");
            writer.Write(Iova);
            run.Holds(!run.Memory.Bytes(0, (int)Page).ContainsAnyExcept((byte)0), "the old page untouched");
            run.Holds(run.Memory.Bytes(8 * Page, (int)Page).ContainsAnyExcept((byte)0), "the new page to be written");
        });
        table.Add("mapped-later", "memory that is mapped while the device is in use can be written", run =>
        {
            Memory memory = Memory.Create(run, mode, DeviceNeed.WriterInGroup);
            NvmeWriter writer = memory.StartWriter();
            run.Answers(memory.Map(Iova, run.MemoryAddress, 2 * Page), Errno.Success, "mapping");
            writer.Write(Iova + Page);
            run.Holds(run.Memory.Bytes(Page, (int)Page).ContainsAnyExcept((byte)0), "the page to be written");
        });
        if (mode is Mode.Iommufd or Mode.CompatType1V2)
            return;
        table.Add("neighbour-unmapped", "unmapping a neighbour leaves a mapping usable", run =>
        {
            Memory memory = Memory.Create(run, mode, DeviceNeed.WriterInGroup);
            run.Answers(memory.Map(Iova, run.MemoryAddress, 4 * Page), Errno.Success, "mapping");
            run.Answers(
                memory.Map(Iova + (4 * Page), run.MemoryAddress + (4 * Page), 4 * Page), Errno.Success, "mapping");
            NvmeWriter writer = memory.StartWriter();
            // iommufd's version 1 can cut a mapping in the middle.
            ulong length = mode == Mode.CompatType1 ? 2 * Page : 4 * Page;
            run.Answers(memory.Unmap(Iova, length, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(length, unmapped, "what was unmapped");
            ulong page = length / Page;
            writer.Write(Iova + (page * Page));
            run.Holds(
                run.Memory.Bytes(page * Page, (int)Page).ContainsAnyExcept((byte)0), "the page behind to be written");
        });
    }

    /// <summary>A device and the memory it sees, in one of the modes.</summary>
    private sealed class Memory
    {
        private readonly CaseRun _run;
        private readonly GroupSession? _session;
        private readonly KernelFd? _container;
        private readonly BoundDevice _device;

        private Memory(CaseRun run, GroupSession? session, KernelFd? container, BoundDevice device)
        {
            _run = run;
            _session = session;
            _container = container;
            _device = device;
        }

        public static Memory Create(CaseRun run, Mode mode, DeviceNeed? need = null)
        {
            if (mode == Mode.Iommufd)
            {
                BoundDevice bound = run.Use(need ?? DeviceNeed.InGroup);
                bound.Attach(run.Ioas);
                return new Memory(run, null, null, bound);
            }

            bool isVersion1 = mode is Mode.Type1 or Mode.CompatType1;
            VfioExtension type = isVersion1 ? VfioExtension.Type1 : VfioExtension.Type1V2;
            GroupSession session;
            if (mode is Mode.Type1 or Mode.Type1V2)
            {
                session = GroupSession.InType1(run, type, need);
            }
            else
            {
                session = LegacyGroupCases.OnIommufd(run, need);
                run.Answers(session.SetIommu((ulong)type), Errno.Success, "VFIO_SET_IOMMU");
            }

            var device = new BoundDevice(run, session.Profile, session.OpenDevice(), id: 0);
            return new Memory(run, session, session.Container, device);
        }

        public NvmeWriter StartWriter() =>
            NvmeWriter.Start(_run, _device, (iova, memory) => Map(iova, memory.Address.Value, memory.ByteLength));

        public Errno Map(ulong iova, ulong address, ulong byteLength) =>
            _session?.TryMap(iova, address, byteLength) ?? _run.TryMap(iova, address, byteLength);

        public Errno Unmap(ulong iova, ulong byteLength, out ulong unmapped) => _session is null
            ? _run.Unmap(iova, byteLength, out unmapped)
            : _session.Unmap(iova, byteLength, out unmapped);

        public Errno UnmapAll(out ulong unmapped) => _session is null
            ? _run.Unmap(0, ulong.MaxValue, out unmapped)
            : _session.Unmap(0, 0, out unmapped, VfioDmaUnmapFlags.All);

        public ulong LastPage()
        {
            ulong last = _container is null
                ? _run.Ranges(_run.Ioas, out _)[^1].Last
                : _session!.Info().Ranges()[^1].Last;
            return last & ~(Page - 1);
        }
    }
}
