using System.Globalization;

namespace Tidemark.Bench.Soak;

/// <summary>How a soak is to be done.</summary>
internal sealed record SoakOptions
{
    public double Minutes { get; init; } = 10;

    /// <summary>Not more rounds than this.</summary>
    public int Rounds { get; init; } = int.MaxValue;

    public int Seed { get; init; } = (int)(Environment.TickCount64 & 0x7FFF_FFFF);

    /// <summary>Only this round.</summary>
    public int? Round { get; init; }

    /// <summary>Not at random: each side killed at each step of the hand-over.</summary>
    public bool Steps { get; init; }

    /// <summary>Of the steps only one for each phase.</summary>
    public bool Phases { get; init; }

    /// <summary>A fault that every machine is started with, so that the soak is seen to find it.</summary>
    public string? Plant { get; init; }

    public bool Json { get; init; }

    /// <summary>Null when something is not understood; that has been said then.</summary>
    internal static SoakOptions? Parse(IReadOnlyList<string> arguments, bool json)
    {
        var options = new SoakOptions { Json = json };
        for (int index = 0; index < arguments.Count; index++)
        {
            if (arguments[index] is "--steps" or "--phases")
            {
                options = options with { Steps = true, Phases = arguments[index] == "--phases" };
                continue;
            }

            string name = arguments[index];
            string value = ++index < arguments.Count ? arguments[index] : "";
            bool isNumber = int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int number);
            SoakOptions? next = (name, isNumber) switch
            {
                ("--minutes", _) when double.TryParse(value, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double minutes)
                    && minutes > 0 => options with { Minutes = minutes },
                ("--seed", true) => options with { Seed = number },
                ("--round", true) => options with { Round = number },
                ("--rounds", true) when number > 0 => options with { Rounds = number },
                ("--plant", _) when value.Length > 0 => options with { Plant = value },
                _ => null,
            };
            if (next is null)
            {
                Console.Error.WriteLine($"bench soak: {name} {value} is not understood.");
                return null;
            }

            options = next;
        }

        return options;
    }
}
