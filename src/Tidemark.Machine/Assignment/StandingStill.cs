namespace Tidemark.Machine.Assignment;

/// <summary>
/// Devices whose drivers are in this process and keep them idle, as long as it lives. Those that can not be kept so work
/// on: a change under them is then one under DMA.
/// </summary>
internal sealed class StandingStill : IDisposable
{
    /// <summary>LIMIT: a driver that waits for what its caller holds gives up after this.</summary>
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(1);

    private readonly List<IDisposable> _rests = [];

    private StandingStill()
    {
    }

    public static StandingStill Of(IEnumerable<AssignedDevice> devices)
    {
        var all = new StandingStill();
        try
        {
            foreach (AssignedDevice device in devices)
            {
                if (device.Assisted?.Driver.TryStandStill(s_limit) is { } rest)
                    all._rests.Add(rest);
            }

            return all;
        }
        catch
        {
            all.Dispose();
            throw;
        }
    }

    public void Dispose() => _rests.ForEach(rest => rest.Dispose());
}
