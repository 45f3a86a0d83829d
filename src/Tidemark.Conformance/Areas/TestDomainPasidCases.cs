using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Attachments of PASIDs. A case detaches what it attached: a device that goes with a PASID attached is a mistake of
/// the kernel's driver, which the kernel warns of.
/// </summary>
internal static class TestDomainPasidCases
{
    private const string Area = "test-domain-pasid";
    private const uint Pasid = 100;

    /// <summary>Of this one the test driver fails every second change.</summary>
    private const uint FailingPasid = 1024;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAttach(new CaseTable(cases, Area, "testdomain.pasid.attach", "kernel behaviour, attaching a PASID"));
        AddReplace(new CaseTable(cases, Area, "testdomain.pasid.replace", "kernel behaviour, replacing a PASID's table"));
        AddTogether(new CaseTable(cases, Area, "testdomain.pasid", "kernel behaviour, PASIDs beside the device"));
    }

    private static void AddAttach(CaseTable table)
    {
        table.Add("shown", "an attached PASID has its page table, a detached one has none", run =>
        {
            Rig rig = Make(run);
            rig.Is(Pasid, 0);
            rig.Attach(Pasid, rig.Paging);
            rig.Is(Pasid, rig.Paging);
            rig.Detach(Pasid);
            rig.Is(Pasid, 0);
        });
        foreach (uint pasid in (uint[])[1, 2, 4095, 0xF_FFFF])
        {
            table.Add($"pasid-{pasid}", "every PASID that the device has can be attached", run =>
            {
                Rig rig = Make(run);
                rig.Attach(pasid, rig.Nested);
                rig.Is(pasid, rig.Nested);
                rig.Detach(pasid);
            });
        }

        foreach (uint pasid in (uint[])[0x10_0000, 0x7FFF_FFFF])
        {
            table.Add($"pasid-0x{pasid:x}", "a PASID beyond the device's is EINVAL", run =>
            {
                Rig rig = Make(run);
                run.Answers(rig.TryAttach(pasid, rig.Paging), Errno.EINVAL, "attaching");
            });
        }

        table.Add("unknown-table", "an unknown page table is ENOENT", run =>
            run.Answers(Make(run).TryAttach(Pasid, 999), Errno.ENOENT, "attaching"));
        table.Add("device", "the id of a device is EINVAL", run =>
        {
            Rig rig = Make(run);
            run.Answers(rig.TryAttach(Pasid, rig.Device.DeviceId), Errno.EINVAL, "attaching");
        });
        table.Add("ioas", "an IOAS is EINVAL: an automatic page table is not made for PASIDs", run =>
        {
            Rig rig = Make(run);
            run.Answers(rig.TryAttach(Pasid, run.Ioas), Errno.EINVAL, "attaching");
            rig.Is(Pasid, 0);
        });
        table.Add("plain-table", "a page table that is not made for PASIDs is EINVAL", run =>
        {
            Rig rig = Make(run);
            run.Answers(rig.TryAttach(Pasid, rig.Parent), Errno.EINVAL, "attaching");
            rig.Is(Pasid, 0);
        });
        table.Add("device-on-plain-table", "a device on a page table not made for PASIDs attaches none: EINVAL", run =>
        {
            Rig rig = Make(run);
            run.TestDomain.Replace(rig.Device, rig.Parent);
            run.Answers(rig.TryAttach(Pasid, rig.Paging), Errno.EINVAL, "attaching");
        });
        table.Add("twice", "attaching what is attached is EBUSY, and the old stays", run =>
        {
            Rig rig = Make(run);
            rig.Attach(Pasid, rig.Paging);
            Errno same = rig.TryAttach(Pasid, rig.Paging);
            Errno other = rig.TryAttach(Pasid, rig.Nested);
            rig.Is(Pasid, rig.Paging);
            rig.Detach(Pasid);
            run.Answers(same, Errno.EBUSY, "attaching the same");
            run.Answers(other, Errno.EBUSY, "attaching another");
        });
        table.Add("incapable-device", "a device without PASIDs attaches none: EINVAL", run =>
        {
            Rig rig = Make(run);
            TestDevice plain = run.TestDomain.CreateDevice(rig.Paging);
            run.Answers(
                run.TestDomain.Pasid(TestOperation.AttachPasid, plain, Pasid, rig.Paging), Errno.EINVAL, "attaching");
            run.Answers(
                run.TestDomain.Pasid(TestOperation.AttachPasid, plain, Pasid, rig.Parent), Errno.EINVAL, "attaching");
        });
        table.Add("unknown-test-device", "an unknown test device is ENOENT", run =>
        {
            var nobody = new TestDevice(999, 0, 0);
            foreach (TestOperation operation in (TestOperation[])[
                TestOperation.AttachPasid, TestOperation.ReplacePasid, TestOperation.DetachPasid,
                TestOperation.CheckPasid])
            {
                run.Answers(
                    run.TestDomain.Pasid(operation, nobody, Pasid, run.Ioas), Errno.ENOENT, $"{operation}");
            }
        });
        table.Add("detach-unattached", "detaching what is not attached is accepted", run => Make(run).Detach(Pasid));
        table.Add("table-is-busy", "a page table is busy while a PASID is attached", run =>
        {
            Rig rig = Make(run);
            uint table2 = run.TestDomain.Allocate(rig.Device, run.Ioas, IommuHwptAllocFlags.Pasid);
            rig.Attach(Pasid, table2);
            Errno busy = run.Destroy(table2);
            rig.Detach(Pasid);
            run.Answers(busy, Errno.EBUSY, "destroying it");
            run.Answers(run.Destroy(table2), Errno.Success, "destroying it");
        });
        table.Add("tracking-table", "a PASID can use a page table that tracks", run =>
        {
            Rig rig = Make(run);
            uint dirty = run.TestDomain.Allocate(
                rig.Device, run.Ioas, IommuHwptAllocFlags.Pasid | IommuHwptAllocFlags.DirtyTracking);
            rig.Attach(Pasid, dirty);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(dirty, IommuHwptSetDirtyTrackingFlags.Enable);
            Errno enabled = Calls.Iommufd(run, ref call);
            call.Flags = IommuHwptSetDirtyTrackingFlags.None;
            Errno disabled = Calls.Iommufd(run, ref call);
            rig.Detach(Pasid);
            run.Answers(enabled, Errno.Success, "enabling");
            run.Answers(disabled, Errno.Success, "disabling");
        });
    }

    private static void AddReplace(CaseTable table)
    {
        table.Add("unattached", "replacing what is not attached is EINVAL", run =>
        {
            Rig rig = Make(run);
            run.Answers(rig.TryReplace(Pasid, rig.Paging), Errno.EINVAL, "replacing");
            rig.Is(Pasid, 0);
        });
        table.Add("by-another", "a PASID moves from one page table to another", run =>
        {
            Rig rig = Make(run);
            uint second = run.TestDomain.Allocate(
                rig.Device, rig.Parent, IommuHwptAllocFlags.Pasid, nested: true);
            rig.Attach(Pasid, rig.Paging);
            rig.Replace(Pasid, rig.Nested);
            rig.Is(Pasid, rig.Nested);
            rig.Replace(Pasid, second);
            rig.Is(Pasid, second);
            Errno freed = run.Destroy(rig.Nested);
            rig.Detach(Pasid);
            run.Answers(freed, Errno.Success, "destroying the one that was left");
        });
        table.Add("by-the-same", "replacing by what is in use changes nothing", run =>
        {
            Rig rig = Make(run);
            rig.Attach(Pasid, rig.Nested);
            rig.Replace(Pasid, rig.Nested);
            rig.Is(Pasid, rig.Nested);
            rig.Detach(Pasid);
        });
        foreach ((string name, Func<CaseRun, Rig, uint> target, Errno errno) in
            ((string, Func<CaseRun, Rig, uint>, Errno)[])[
                ("ioas", (run, _) => run.Ioas, Errno.EINVAL), ("plain-table", (_, rig) => rig.Parent, Errno.EINVAL),
                ("unknown", (_, _) => 999, Errno.ENOENT)])
        {
            table.Add($"by-{name}", "a refused replacement leaves the old page table", run =>
            {
                Rig rig = Make(run);
                rig.Attach(Pasid, rig.Paging);
                Errno refused = rig.TryReplace(Pasid, target(run, rig));
                rig.Is(Pasid, rig.Paging);
                rig.Detach(Pasid);
                run.Answers(refused, errno, "replacing");
            });
        }

        table.Add("failing-driver", "a driver that fails leaves the old page table", run =>
        {
            Rig rig = Make(run);
            rig.Attach(FailingPasid, rig.Paging);
            Errno failed = rig.TryReplace(FailingPasid, rig.Nested);
            rig.Is(FailingPasid, rig.Paging);
            Errno again = rig.TryReplace(FailingPasid, rig.Nested);
            rig.Is(FailingPasid, rig.Nested);
            rig.Detach(FailingPasid);
            run.Answers(failed, Errno.ENOMEM, "replacing");
            run.Answers(again, Errno.Success, "replacing again");
        });
    }

    private static void AddTogether(CaseTable table)
    {
        table.Add("device-to-plain-table", "with a PASID attached the device can not leave for a plain table", run =>
        {
            Rig rig = Make(run);
            rig.Attach(Pasid, rig.Nested);
            Errno refused = run.TestDomain.TryReplace(rig.Device, rig.Parent, out _);
            rig.Detach(Pasid);
            run.Answers(refused, Errno.EINVAL, "replacing");
            run.TestDomain.Replace(rig.Device, rig.Parent);
        });
        table.Add("device-to-ioas", "nor for an IOAS", run =>
        {
            Rig rig = Make(run);
            rig.Attach(Pasid, rig.Nested);
            Errno refused = run.TestDomain.TryReplace(rig.Device, run.Ioas, out _);
            rig.Detach(Pasid);
            run.Answers(refused, Errno.EINVAL, "replacing");
        });
        table.Add("device-between-tables", "the device moves between page tables made for PASIDs", run =>
        {
            Rig rig = Make(run);
            rig.Attach(Pasid, rig.Nested);
            Errno moved = run.TestDomain.TryReplace(rig.Device, rig.Nested, out _);
            rig.Is(Pasid, rig.Nested);
            rig.Detach(Pasid);
            run.Answers(moved, Errno.Success, "replacing");
        });
        table.Add("several", "PASIDs are attached one by one", run =>
        {
            Rig rig = Make(run);
            rig.Attach(1, rig.Paging);
            rig.Attach(2, rig.Nested);
            rig.Attach(3, rig.Paging);
            rig.Detach(1);
            rig.Is(1, 0);
            rig.Is(2, rig.Nested);
            rig.Is(3, rig.Paging);
            rig.Detach(2);
            rig.Detach(3);
        });
        table.Add("incapable-device-uses-table", "a device without PASIDs can use a page table made for them", run =>
        {
            Rig rig = Make(run);
            TestDevice plain = run.TestDomain.CreateDevice();
            run.TestDomain.Replace(plain, rig.Nested);
            run.TestDomain.Replace(plain, run.Ioas);
        });
    }

    /// <summary>A device with PASIDs on a page table made for them.</summary>
    private static Rig Make(CaseRun run)
    {
        TestRig rig = run.TestDomain;
        TestDevice device = rig.CreateDevice(flags: TestDeviceFlags.Pasid);
        uint parent = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
        uint paging = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.Pasid);
        uint nested = rig.Allocate(device, parent, IommuHwptAllocFlags.Pasid, nested: true);
        rig.Replace(device, paging);
        return new Rig(run, device, parent, paging, nested);
    }

    /// <param name="Parent">Not made for PASIDs.</param>
    private sealed record Rig(CaseRun Run, TestDevice Device, uint Parent, uint Paging, uint Nested)
    {
        public Errno TryAttach(uint pasid, uint target) => Call(TestOperation.AttachPasid, pasid, target);

        public Errno TryReplace(uint pasid, uint target) => Call(TestOperation.ReplacePasid, pasid, target);

        public void Attach(uint pasid, uint target) =>
            Run.Answers(TryAttach(pasid, target), Errno.Success, $"attaching PASID {pasid}");

        public void Replace(uint pasid, uint target) =>
            Run.Answers(TryReplace(pasid, target), Errno.Success, $"replacing PASID {pasid}");

        public void Detach(uint pasid) =>
            Run.Answers(Call(TestOperation.DetachPasid, pasid, 0), Errno.Success, $"detaching PASID {pasid}");

        /// <param name="table">0: none.</param>
        public void Is(uint pasid, uint table) =>
            Run.Answers(
                Call(TestOperation.CheckPasid, pasid, table), Errno.Success,
                $"looking for page table {table} at PASID {pasid}");

        private Errno Call(TestOperation operation, uint pasid, uint target) =>
            Run.TestDomain.Pasid(operation, Device, pasid, target);
    }
}
