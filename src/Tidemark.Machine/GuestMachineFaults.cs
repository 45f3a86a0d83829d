namespace Tidemark.Machine;

/// <summary>What a machine does only to show that it can be done.</summary>
[Flags]
public enum GuestMachineExercises
{
    None = 0,

    /// <summary>During each migration its devices move to another page table while they are tracked.</summary>
    Reattach = 1,
}

/// <summary>Planted faults of the machine. None in any normal run.</summary>
[Flags]
public enum GuestMachineFaults
{
    None = 0,

    /// <summary>The IOMMU's dirty bits are left out of the union.</summary>
    DropIommuSource = 1,

    /// <summary>The processor's writes are left out of the union.</summary>
    DropCpuSource = 2,

    /// <summary>Every tracker of devices is left out of the union, whichever it is.</summary>
    DropDeviceSources = 4,

    /// <summary>What the guest unmaps at its virtual IOMMU is unmapped without a look at its dirty bits.</summary>
    ForgetUnmapped = 8,
}
