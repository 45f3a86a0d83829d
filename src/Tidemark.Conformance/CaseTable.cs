using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance;

/// <summary>Spoils one thing in an argument that would be accepted, or in what is around it.</summary>
internal delegate void Spoil<T>(CaseRun run, ref T argument);

/// <summary>Makes the call with the argument.</summary>
internal delegate Errno Call<T>(CaseRun run, ref T argument);

/// <summary>A row of an errno table.</summary>
/// <param name="Name">What is wrong, with dashes.</param>
/// <param name="Place">
/// Which parts of the argument are spoilt or matter, separated by spaces: two rows of one place can not be wrong
/// together.
/// </param>
internal sealed record ErrorRow<T>(string Name, string Place, Errno Errno, Spoil<T> Spoil);

/// <summary>The cases of an area while they are written down.</summary>
/// <param name="path">What names begin with: <c>iommufd.ioas.map</c>.</param>
/// <param name="source">What sources begin with: <c>iommufd.h, iommu_ioas_map</c>.</param>
internal sealed class CaseTable(List<ConformanceCase> cases, string area, string path, string source)
{
    /// <param name="rule">The promise, as the end of a sentence.</param>
    public void Add(string name, string rule, Action<CaseRun> body) =>
        cases.Add(new ConformanceCase($"{path}.{name}", area, $"{source}: {rule}", body));

    /// <summary>
    /// Rows in the order in which the kernel checks: a case for each, one for each two that can be wrong together (the
    /// first answers), and one that the argument is accepted when nothing is wrong, without which the others say
    /// little.
    /// </summary>
    /// <param name="make">An argument that is accepted. Called once in each case.</param>
    public void Errors<T>(Func<CaseRun, T> make, Call<T> call, params ErrorRow<T>[] rows)
    {
        Add("accepted", "an argument without a mistake is accepted", run =>
        {
            T argument = make(run);
            run.Answers(call(run, ref argument), Errno.Success, "the call");
        });
        Refusals(make, call, rows);
    }

    /// <summary>As <see cref="Errors"/>, for calls that no argument makes succeed here.</summary>
    public void Refusals<T>(Func<CaseRun, T> make, Call<T> call, params ErrorRow<T>[] rows)
    {
        foreach (ErrorRow<T> row in rows)
        {
            Add(row.Name, $"{Spoken(row.Name)} is answered with {row.Errno}", run =>
            {
                T argument = make(run);
                row.Spoil(run, ref argument);
                run.Answers(call(run, ref argument), row.Errno, $"the call with {Spoken(row.Name)}");
            });
        }

        for (int first = 0; first < rows.Length; first++)
        {
            for (int second = first + 1; second < rows.Length; second++)
            {
                if (!Meet(rows[first].Place, rows[second].Place) && rows[first].Errno != rows[second].Errno)
                    AddOrder(make, call, rows[first], rows[second]);
            }
        }
    }

    private static bool Meet(string first, string second) => first.Split(' ').Intersect(second.Split(' ')).Any();

    private static string Spoken(string name) => name.Replace('-', ' ');

    private void AddOrder<T>(Func<CaseRun, T> make, Call<T> call, ErrorRow<T> first, ErrorRow<T> second) =>
        Add(
            $"order.{first.Name}-before-{second.Name}",
            $"kernel behaviour: {Spoken(first.Name)} is seen before {Spoken(second.Name)}",
            run =>
            {
                T argument = make(run);
                second.Spoil(run, ref argument);
                first.Spoil(run, ref argument);
                run.Answers(call(run, ref argument), first.Errno,
                    $"the call with {Spoken(first.Name)} and {Spoken(second.Name)}");
            });
}

/// <summary>The usual ways to make a call.</summary>
internal static class Calls
{
    /// <summary>On the case's iommufd.</summary>
    public static Errno Iommufd<T>(CaseRun run, ref T argument)
        where T : unmanaged, IIoctlArgument<T> =>
        run.Kernel.Ioctl(run.Iommufd, ref argument).Errno;

    /// <summary>On the case's device.</summary>
    public static Errno Device<T>(CaseRun run, ref T argument)
        where T : unmanaged, IIoctlArgument<T> =>
        run.Kernel.Ioctl(run.Device.File, ref argument).Errno;
}
