using System.Diagnostics;
using System.Reflection;
using System.Runtime.CompilerServices;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// Compiles our own methods before a machine stands still for them: otherwise the first switchover of a process pays
/// for the just-in-time compiler inside the downtime: 150 of 230 ms; of a program that was compiled ahead of time, 5 of 20,
/// because the runtime compiles the rest of it (generics, for one) when it is first called.
/// </summary>
internal static class CodeWarmUp
{
    /// <summary>Begins in the background, at low priority; nothing waits for it and nothing depends on it.</summary>
    public static void Begin() =>
        new Thread(CompileOwnMethods) { IsBackground = true, Name = "tidemark warm-up", Priority = ThreadPriority.BelowNormal }.Start();

    /// <summary>LIMIT: on a slow machine it must not take the processors from the machine's own start.</summary>
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);

    private static void CompileOwnMethods()
    {
        long began = Stopwatch.GetTimestamp();
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
