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
///         nobody there: TakeCharge, ResumeWorkload
///         Relinquish                             &lt;==taken==
///                                                ==yours==&gt;          GoOn
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

    /// <summary>Makes this process the one that is charged for what devices have pinned.</summary>
    /// <exception cref="KernelException">Refused; the other process is charged as before.</exception>
    public void TakeCharge() => _iommufd?.ChangeProcess();

    /// <summary>Lets the inherited workload run.</summary>
    public void GoOn() => _workload.Start();

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
