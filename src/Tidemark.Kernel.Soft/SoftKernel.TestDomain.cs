using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft;

/// <summary>What iommufd contexts ask of the kernel around them.</summary>
public sealed partial class SoftKernel
{
    /// <summary>IOMMU_TEST_CMD is there.</summary>
    internal bool HasTestDomain { get; }

    /// <summary>Gives a file its first descriptor.</summary>
    internal int Install(SoftFile file) => _files.Add(file);

    /// <summary>Does something with a file of one kind, which stays open meanwhile.</summary>
    /// <param name="otherwise">The answer when the descriptor is not open, or of another kind.</param>
    internal Errno UseFile<T>(int descriptor, Func<T, Errno> use, Errno otherwise)
        where T : SoftFile
    {
        if (!_files.TryAcquire(descriptor, out OpenFile? file))
            return otherwise;
        try
        {
            return file.File is T found ? use(found) : otherwise;
        }
        finally
        {
            _files.Drop(file);
        }
    }

    /// <summary>The page sets of every mapping in every context. A picture of the moment, for tests that stand
    /// still.</summary>
    internal HashSet<PageSet> CollectPageSets()
    {
        IommufdContext[] contexts;
        lock (_contextsGate)
            contexts = [.. _contexts];
        var sets = new HashSet<PageSet>(ReferenceEqualityComparer.Instance);
        foreach (IommufdContext context in contexts)
        {
            lock (context.Gate)
            {
                foreach (Ioas ioas in context.Objects.All.OfType<Ioas>())
                {
                    foreach (IoasArea area in ioas.Areas)
                        sets.Add(area.Pages);
                }
            }
        }

        return sets;
    }
}
