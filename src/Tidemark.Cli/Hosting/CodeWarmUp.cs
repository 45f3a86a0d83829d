using System.Diagnostics;
using System.Reflection;
using System.Runtime.CompilerServices;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// What the runtime does when a method is first called, done before a machine stands still for it: a rehearsed migration
/// for all that the engine needs, then the compiler over our own methods for what a machine without devices does not call
/// (stopping and loading devices: 15 of 45 ms of the demo's downtime).
/// </summary>
internal static class CodeWarmUp
{
    /// <summary>Begins in the background; nothing waits for it and nothing depends on it.</summary>
    /// <param name="tell">Gets a sentence about it, on its thread.</param>
    public static void Begin(Action<string> tell) =>
        new Thread(() => WarmUp(tell)) { IsBackground = true, Name = "tidemark warm-up" }.Start();

    /// <summary>LIMIT: on a slow machine it must not take the processors from the machine's own start.</summary>
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);

    private static void WarmUp(Action<string> tell)
    {
        long began = Stopwatch.GetTimestamp();
        try
        {
            tell(MigrationRehearsal.Run());
        }
        catch (Exception failure)
        {
            // Nothing depends on it: what keeps it from its end keeps a real migration from it too, which says more.
            tell($"The rehearsal of a migration failed: {failure.Message}");
        }

        CompileOwnMethods(began);
    }

    private static void CompileOwnMethods(long began)
    {
        const BindingFlags All = BindingFlags.Instance | BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly;
        foreach (Assembly assembly in AppDomain.CurrentDomain.GetAssemblies())
        {
            if (assembly.GetName().Name is not { } name || !name.StartsWith("tidemark", StringComparison.OrdinalIgnoreCase))
                continue;
            foreach (Type type in assembly.GetTypes().Where(type => !type.ContainsGenericParameters))
            {
                foreach (MethodBase method in type.GetMethods(All).Cast<MethodBase>().Concat(type.GetConstructors(All)))
                {
                    if (Stopwatch.GetElapsedTime(began) > s_limit)
                        return;
                    if (!method.IsAbstract && !method.ContainsGenericParameters && (method.Attributes & MethodAttributes.PinvokeImpl) == 0)
                        TryCompile(method);
                }
            }
        }
    }

    private static void TryCompile(MethodBase method)
    {
        try
        {
            RuntimeHelpers.PrepareMethod(method.MethodHandle);
        }
        catch (Exception)
        {
            // A method that can not be compiled ahead is compiled when it is called, as always.
        }
    }
}
