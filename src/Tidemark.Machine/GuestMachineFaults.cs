namespace Tidemark.Machine;

/// <summary>Planted faults of the machine. None in any normal run.</summary>
[Flags]
public enum GuestMachineFaults
{
    None = 0,

    /// <summary>The IOMMU's dirty bits are left out of the union.</summary>
    DropIommuSource = 1,

    /// <summary>The processor's writes are left out of the union.</summary>
    DropCpuSource = 2,
}
