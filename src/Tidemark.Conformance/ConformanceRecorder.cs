using Tidemark.Kernel;
using Tidemark.Kernel.Recording;

namespace Tidemark.Conformance;

/// <summary>
/// Records the calls of cases that pass, so that another kernel can be asked the same without the cases.
/// </summary>
/// <remarks>
/// A case that failed or does not apply says nothing that is worth keeping. One during which a device writes into
/// memory on its own is left out with the reason: no two runs of it are alike.
/// </remarks>
public sealed class ConformanceRecorder
{
    /// <summary>LIMIT: calls of a case; one that fills the kernel's tables is too long to be kept as text.</summary>
    private const int MostCalls = 2000;

    private readonly Dictionary<string, List<RecordedCase>> _cases = [];
    private readonly Dictionary<string, List<(string Case, string Reason)>> _skipped = [];
    private List<RecordedStep>? _steps;

    public ConformanceRecorder(IKernel kernel) =>
        Kernel = RecordingKernel.WithMemory(kernel, Take);

    /// <summary>The kernel that the cases have to run on.</summary>
    public IKernel Kernel { get; }

    /// <summary>Cases that were recorded.</summary>
    public int CaseCount => _cases.Values.Sum(cases => cases.Count);

    /// <summary>Cases that passed and were left out.</summary>
    public int SkippedCount => _skipped.Values.Sum(cases => cases.Count);

    public void Start(ConformanceCase current) => _steps = [];

    public void End(ConformanceResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        List<RecordedStep> steps = _steps ?? throw new InvalidOperationException("No case was started.");
        _steps = null;
        if (result.Verdict != ConformanceVerdict.Passed)
            return;
        string? reason = result.Unrepeatable
            ?? (steps.Count > MostCalls ? $"It makes more than {MostCalls} calls." : null);
        if (reason is not null)
            Of(_skipped, result.Case.Area).Add((result.Case.Name, reason));
        else
            Of(_cases, result.Case.Area).Add(new RecordedCase(result.Case.Name, steps));
    }

    /// <summary>What was recorded, area by area.</summary>
    /// <param name="profile">The name of the host, under which the soft kernel knows the same hardware.</param>
    public IEnumerable<(string Area, CallRecording Recording)> ToRecordings(
        string profile, IReadOnlyList<DeviceProfile> devices)
    {
        List<RecordedDevice> named = NodesOf(devices);
        foreach (string area in _cases.Keys.Union(_skipped.Keys).Order(StringComparer.Ordinal))
        {
            yield return (area, new CallRecording(
                Kernel.Identity, profile, named, _cases.GetValueOrDefault(area, []), _skipped.GetValueOrDefault(area, [])));
        }
    }

    /// <summary>The devices as recordings name them; those that can not be used are left out.</summary>
    public static List<RecordedDevice> NodesOf(IReadOnlyList<DeviceProfile> devices) =>
        [.. devices.Where(device => device.Problem is null)
            .Select(device => new RecordedDevice(device.Address, device.Node, device.GroupNode ?? "-"))];

    private void Take(RecordedStep step)
    {
        if (_steps is { Count: <= MostCalls } steps)
            steps.Add(step);
    }

    private static List<T> Of<T>(Dictionary<string, List<T>> lists, string area)
    {
        if (!lists.TryGetValue(area, out List<T>? list))
            lists.Add(area, list = []);
        return list;
    }
}
