namespace Tidemark.Migration;

/// <summary>One step of one part of a machine; a failure names both.</summary>
internal static class PartStep
{
    /// <param name="step">As the end of "The part NAME could not ...".</param>
    /// <exception cref="MigrationFailedException">The part failed.</exception>
    public static void Do(IMigratable part, string step, Action<IMigratable> action)
    {
        try
        {
            action(part);
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"The part {part.Name} could not {step}: {failure.Message}", inner: failure);
        }
    }
}
