namespace Tidemark.Kernel.Soft.Files;

/// <summary>
/// Told how many mappings show something of it, so that it can stay as long as they do. Called without any lock of
/// <see cref="UserMemory"/>, and with more mappings than there are rather than fewer.
/// </summary>
internal interface IMappingOwner
{
    void AddMapping();

    void RemoveMapping();
}
