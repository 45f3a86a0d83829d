using Tidemark.Memory;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// A source that is not read while its devices run (<c>precopy-dirty-tracking=off</c>): what they wrote is sent when
/// the machine is stopped. For devices or IOMMUs that reading disturbs.
/// </summary>
/// <param name="standStill">Whether none of the devices can write any more.</param>
public sealed class DeferredDirtySource(IDirtySource source, Func<bool> standStill) : IDirtySource
{
    public string Name => source.Name;

    public DirtySourceKind Kind => source.Kind;

    /// <summary>The source that is read late.</summary>
    public IDirtySource Source => source;

    /// <inheritdoc/>
    public void Start() => source.Start();

    /// <inheritdoc/>
    public void Stop() => source.Stop();

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        if (standStill())
            source.Harvest(pages);
    }
}
