using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Viommu;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Which of the kernel's interfaces a scene uses.</summary>
public enum Backend
{
    Iommufd,
    Legacy,
}

/// <summary>
/// Devices of a <see cref="SoftRig"/> in one container with their trackers, tracking switched on, each with a driver.
/// Guest memory below 6 MiB is mapped at its own addresses; the rest is mapped by those who want it.
/// </summary>
internal sealed class TrackedScene : IDisposable
{
    /// <summary>Where the device's queues do not lie: guest pages that only tests let devices write.</summary>
    public const ulong FirstPage = 1280;

    public const ulong WindowStart = 6 << 20;
    public const ulong WindowLength = 1 << 20;
    public const ulong WindowPage = WindowStart >> GuestPage.Shift;
    private readonly Dictionary<int, AdminQueue> _queues = [];
    private readonly Stack<IDisposable> _owned = new();

    /// <param name="viommu">Mappings are made at a virtual IOMMU.</param>
    public TrackedScene(SoftRig rig, Backend backend, int[] numbers, bool hugePages = false,
        Func<int, AssignmentOptions>? options = null, bool viommu = false)
    {
        Rig = rig;
        try
        {
            Container = CreateContainer(rig, backend, hugePages);
            Devices = numbers.ToDictionary(
                number => number,
                number => Own(rig.Assign(Container, number, options?.Invoke(number) ?? AssignmentOptions.Default)));
            if (viommu)
            {
                Endpoint = new GuestIommu().Add("all", Container, rig.Memory, rig.MemoryFile);
                Endpoint.SetMode(EndpointMode.Translated);
            }

            Map(0, 0, WindowStart);
            Tracking = Own(AssignmentTracking.Create(rig.Faults, [.. Devices.Values]));
            Tracker = new DirtyTracker(rig.Memory.SpanPages, Tracking.Sources);
            Tracking.Connect(Tracker);
            Endpoint?.Connect(Tracking);
            foreach (int number in numbers)
                Drive(number);
            Tracker.Start();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public SoftRig Rig { get; }

    public DmaContainer Container { get; }

    public IommufdContainer Iommufd => (IommufdContainer)Container;

    public Dictionary<int, AssignedDevice> Devices { get; }

    public GuestIommuEndpoint? Endpoint { get; }

    public AssignmentTracking Tracking { get; }

    public DirtyTracker Tracker { get; }

    public static ulong WindowIova(ulong page) => (1UL << 33) + (page << GuestPage.Shift);

    /// <summary>Maps guest memory somewhere.</summary>
    public void Map(ulong iova, ulong guest, ulong byteLength)
    {
        if (Endpoint is not null)
            Endpoint.Map(new Iova(iova), new GuestPhysicalAddress(guest), byteLength);
        else
            Container.Map(new Iova(iova), Rig.Memory.Cut(new GuestPhysicalAddress(guest), byteLength), Rig.MemoryFile);
    }

    /// <summary>Maps the window far above guest memory.</summary>
    public void MapWindow() => Map(WindowIova(0), WindowStart, WindowLength);

    public void UnmapWindow()
    {
        if (Endpoint is not null)
            Endpoint.Unmap(Window.First);
        else
            Tracking.Unmap(Container, Window);
    }

    public IovaRange Window => IovaRange.FromLength(new Iova(WindowIova(0)), WindowLength);

    /// <summary>A device that comes while tracking is on.</summary>
    public AssignedDevice Join(int number, AssignmentOptions? options = null)
    {
        AssignedDevice device = Own(Rig.Assign(Container, number, options ?? AssignmentOptions.Default));
        try
        {
            Tracking.Join(device);
        }
        catch
        {
            device.Dispose();
            throw;
        }

        Devices.Add(number, device);
        Drive(number);
        return device;
    }

    /// <summary>Gives the device its driver, anew after a reset. No call of the driver's is ever made to fail.</summary>
    public void Drive(int number)
    {
        var fd = new KernelFd(Rig.Soft, Devices[number].Device.Fd.Number, owned: false);
        _queues[number] = new AdminQueue(VfioDevice.FromFd(fd, $"driver{number}"), Rig.Memory, (ulong)number << 19);
    }

    /// <summary>Lets a device write one page, and its completion.</summary>
    public void Write(int number, ulong page) => _queues[number].Identify(page);

    public ulong CompletionPage(int number) => _queues[number].CompletionPage;

    /// <summary>The pages of the next harvest, which are then safe.</summary>
    public HashSet<ulong> Harvest()
    {
        using DirtyLease lease = Tracker.Harvest();
        HashSet<ulong> pages = [.. ToPages(lease.Pages)];
        lease.Commit();
        return pages;
    }

    public static IEnumerable<ulong> ToPages(PageBitmap pages)
    {
        for (ulong page = 0; page < pages.PageCount; page++)
        {
            if (pages[page])
                yield return page;
        }
    }

    public void Dispose()
    {
        try
        {
            Tracker?.Stop();
        }
        catch (KernelException)
        {
            // The source counts as stopped.
        }

        while (_owned.TryPop(out IDisposable? owned))
            owned.Dispose();
    }

    private T Own<T>(T item)
        where T : IDisposable
    {
        _owned.Push(item);
        return item;
    }

    private DmaContainer CreateContainer(SoftRig rig, Backend backend, bool hugePages)
    {
        if (backend == Backend.Legacy)
            return Own(LegacyContainer.Create(rig.Faults));
        IommufdContainer container = Own(IommufdContainer.Create(Own(rig.OpenIommufd())));
        if (!hugePages)
            container.Ioas.SetHugePages(false);
        return container;
    }
}
