namespace Tidemark.Migration;

/// <summary>An observer that can not stop a machine: whatever it throws ends with it.</summary>
internal sealed class GuardedObserver(IMigrationObserver observer) : IMigrationObserver
{
    public void OnEvent(MigrationEvent migrationEvent)
    {
        try
        {
            observer.OnEvent(migrationEvent);
        }
        catch (Exception)
        {
            // Somebody who only watches; nothing of the migration is affected.
        }
    }
}
