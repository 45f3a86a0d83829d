using System.Diagnostics;
using System.Globalization;

namespace Tidemark.Kernel.Soft.Tests;

/// <summary>
/// Rounds of random requests for some seconds, each with a seed of its own and a kernel that is thrown away after it.
/// </summary>
/// <remarks>
/// <see cref="SecondsVariable"/> says how long, <see cref="SeedVariable"/> the first round's seed: a failure prints the
/// seed of its round, which is then the first one. Addresses and threads are not repeated.
/// </remarks>
internal static class Fuzz
{
    public const string SecondsVariable = "TIDEMARK_FUZZ_SECONDS";
    public const string SeedVariable = "TIDEMARK_FUZZ_SEED";

    /// <param name="round">Makes the requests, says before each what it is, and answers how many there were.</param>
    public static void Run(int seconds, Func<Random, Action<string>, int> round)
    {
        seconds = Read(SecondsVariable) ?? seconds;
        int seed = Read(SeedVariable) ?? Environment.TickCount & int.MaxValue;
        long began = Stopwatch.GetTimestamp();
        long rounds = 0, requests = 0;
        string last = "";
        do
        {
            try
            {
                requests += round(new Random(seed), text => last = text);
            }
            catch (Exception failure)
            {
                Assert.Fail($"{SeedVariable}={seed} repeats it. {last}: {failure}");
            }

            rounds++;
            seed = unchecked(seed + 1) & int.MaxValue;
        }
        while (Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(seconds));
        TestContext.Current.TestOutputHelper?.WriteLine($"{requests} requests in {rounds} rounds, {seconds} s");
    }

    private static int? Read(string name)
    {
        string? text = Environment.GetEnvironmentVariable(name);
        if (string.IsNullOrEmpty(text))
            return null;
        Assert.True(
            int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value),
            $"{name} must be a whole number from 0; it is {text}.");
        return value;
    }
}
