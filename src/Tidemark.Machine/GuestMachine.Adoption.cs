using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Hosting;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Machine.Viommu;
using Tidemark.Vfio;

namespace Tidemark.Machine;

/// <summary>
/// A machine that goes from one process of a host to another one: the program is exchanged, and the devices do not notice.
/// </summary>
/// <remarks>
/// <code>
/// here    StopWorkload, Bequeath ==descriptors, manifest==&gt; there   Adopt, TakeCharge
///         not taken there: TakeBack, ResumeWorkload
///         Relinquish                             &lt;==runs==           GoOn
/// </code>
/// In between devices work on commands that are in flight, through the same page tables into the same pages.
/// </remarks>
public sealed partial class GuestMachine
{
    private readonly List<DmaContainer> _containers = [];
    private Iommufd? _iommufd;

    /// <summary>Why the machine can not be handed to another process now, or null.</summary>
    public string? FindAdoptionObstacle()
    {
        if (_containers.Find(container => container is not IommufdContainer) is { } legacy)
        {
            return $"Its devices use the {legacy.Backend} interface, whose mappings belong to this process's addresses: a machine "
                + "with \"backend\": \"iommufd\" can be handed over.";
        }

        try
        {
            // Asked while nothing has changed yet: for this process it moves nothing.
            _iommufd?.ChangeProcess();
            return null;
        }
        catch (KernelException failure)
        {
            // The machine runs on; this is the answer.
            return failure.Message;
        }
    }

    /// <summary>Everything another process needs to go on with this machine, whose workload stands still.</summary>
    /// <exception cref="InvalidOperationException">Dirty tracking is on.</exception>
    public MachineInheritance Bequeath()
    {
        var manifest = new MachineManifest(
            Description.ToArray(),
            [.. _containers.Cast<IommufdContainer>().Select(container => container.Describe())],
            [.. _devices.Select(device => new InheritedDevice(
                device.HostAddress, device.Assigned.Device.DeviceId ?? 0, device.Assigned.Device.IsMdev,
                _containers.IndexOf(device.Assigned.Container)))],
            Viommu.SaveForAdoption(), _workload.SaveForAdoption());
        return new MachineInheritance(
            _memoryFile.File, _iommufd?.Fd, [.. _devices.Select(device => device.Assigned.Device.Fd)], manifest.Write());
    }

    /// <summary>Goes on with a machine of another process: it stands still until <see cref="GoOn"/>.</summary>
    /// <param name="inheritance">Its descriptors belong to the result; after a failure dispose of them: the machine is still
    /// the other process's.</param>
    /// <exception cref="KernelException">A step was refused.</exception>
    /// <exception cref="InvalidDataException">It is another machine's, damaged, or of another version.</exception>
    public static GuestMachine Adopt(
        MachineDescription description, IKernel kernel, ISysfs sysfs, MachineInheritance inheritance)
    {
        ArgumentNullException.ThrowIfNull(description);
        ArgumentNullException.ThrowIfNull(inheritance);
        return new GuestMachine(
            description, kernel, sysfs, GuestMachineFaults.None, GuestMachineExercises.None, inheritance);
    }

    /// <summary>
    /// Makes this process the one that is charged for what devices have pinned and gets their interrupts. The inherited
    /// workload stands still until <see cref="GoOn"/>, which has nothing left to do that could fail.
    /// </summary>
    /// <exception cref="KernelException">Refused. Dispose of the machine after <see cref="Relinquish"/>; the other process
    /// takes back what was taken.</exception>
    public void TakeCharge()
    {
        _iommufd?.ChangeProcess();
        _workload.StartStandingStill();
    }

    /// <summary>
    /// Makes this process again the one that is charged and gets the interrupts, after another one was about to go on with
    /// the machine and did not. Idempotent.
    /// </summary>
    /// <returns>What could not be had back, for users; null when all was. The machine can run on all the same.</returns>
    public string? TakeBack()
    {
        var lacks = new List<string>();
        Try(() => _iommufd?.ChangeProcess(), "its pinned pages stay charged to the process that did not go on with it");
        foreach (GuestDevice device in _devices)
            Try(device.ReconnectInterrupts, $"completions of {device.Name} are looked for every 50 ms, without its interrupts");
        return lacks.Count == 0 ? null : $"Not all is as before: {string.Join("; ", lacks)}.";

        void Try(Action action, string consequence)
        {
            // LIMIT: twice, because a host that is short of memory often has some a moment later.
            for (int attempt = 1; attempt <= 2; attempt++)
            {
                try
                {
                    action();
                    return;
                }
                catch (KernelException failure) when (attempt == 2)
                {
                    // The devices work on, as they did all the time.
                    lacks.Add($"{consequence} ({failure.Message})");
                }
                catch (KernelException)
                {
                    // As above, and tried again.
                }
            }
        }
    }

    /// <summary>Lets the inherited workload run.</summary>
    public void GoOn() => _workload.Resume();

    /// <summary>
    /// Leaves devices, page tables and mappings to the process that goes on with them: disposing of this machine then closes
    /// descriptors and nothing else.
    /// </summary>
    public void Relinquish()
    {
        foreach (DmaContainer container in _containers)
            container.Relinquish();
    }

    /// <summary>Takes the workload's state, and with it what its drivers know of their devices.</summary>
    private void AdoptWorkload(MachineManifest manifest)
    {
        _workload.Adopt(manifest.WorkloadState);
        string[] differences = [.. MachineIdentity.FindDifferences(Description, manifest.Identity)];
        if (differences.Length > 0)
            throw new InvalidDataException($"The machine that runs is not the one of the file: {string.Join(" ", differences)}");
    }

    private void AdoptDevices(MachineManifest manifest, MachineInheritance inheritance)
    {
        if (manifest.Devices.Count == 0)
            return;
        if (inheritance.Iommufd is not { } iommufd || inheritance.Devices.Count != manifest.Devices.Count)
            throw new InvalidDataException("The machine to go on with came without the descriptors of its devices.");
        _iommufd = Iommufd.FromFd(iommufd);
        Own(KernelInterface.Adopt(_iommufd));
        VfioDevice[] devices = [.. manifest.Devices.Select((device, index) => Own(VfioDevice.Adopt(
            inheritance.Devices[index], _description.Devices[index].Name, device.DeviceId, device.IsMdev)))];
        for (int index = 0; index < manifest.Containers.Count; index++)
        {
            IommufdContainer container = Own(IommufdContainer.Adopt(
                _iommufd, manifest.Containers[index], [.. devices.Where((_, at) => manifest.Devices[at].Container == index)]));
            _containers.Add(container);
        }

        for (int index = 0; index < devices.Length; index++)
        {
            DeviceDescription device = _description.Devices[index];
            DmaContainer container = _containers[manifest.Devices[index].Container];
            AssignedDevice assigned = Own(AssignedDevice.Adopt(devices[index], container, device.Assignment));
            GuestIommuEndpoint? endpoint = device.Viommu == DeviceTranslation.None
                ? null
                : Viommu.Add(device.Name, container, Memory, _memoryFile.File);
            AddDevice(index, assigned, endpoint, VfioDiscovery.FindFolder(_sysfs, device.Host));
        }

        Viommu.Adopt(manifest.ViommuState);
    }
}
