using System.Globalization;
using System.Text.Json;

namespace Tidemark.Bench;

/// <summary>
/// The figures of one row, pair by pair. Some have a bound that their median must keep; the row is met when all of those do.
/// </summary>
internal sealed class PairFigures(string row)
{
    private readonly List<Figure> _figures = [];

    internal string Row => row;

    private bool IsMet => _figures.All(figure => figure.IsMet);

    /// <summary>A pair's value of a figure; its first value also says what is asked of it.</summary>
    internal void Add(string name, double value, double? atLeast = null, double? atMost = null)
    {
        Figure? figure = _figures.Find(known => known.Name == name);
        if (figure is null)
            _figures.Add(figure = new Figure(name, atLeast, atMost));
        figure.Values.Add(value);
    }

    /// <summary>Each row as it has been measured, as all of the output; returns the exit code.</summary>
    internal static int Report(IEnumerable<PairFigures> rows, bool json)
    {
        bool met = true;
        using Utf8JsonWriter? writer = json ? new(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true }) : null;
        writer?.WriteStartArray();
        foreach (PairFigures figures in rows)
        {
            if (writer is null)
                figures.Print();
            else
                figures.WriteTo(writer);
            met &= figures.IsMet;
        }

        writer?.WriteEndArray();
        return met ? 0 : 1;
    }

    /// <summary>Prints or writes it as all of the output; returns the exit code.</summary>
    internal int Report(bool json)
    {
        if (json)
        {
            using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
            WriteTo(writer);
        }
        else
        {
            Print();
        }

        return IsMet ? 0 : 1;
    }

    private void Print()
    {
        foreach (Figure figure in _figures)
        {
            string target = figure.AtLeast is { } least ? $"  target >= {Text(least)} {Word(figure)}"
                : figure.AtMost is { } most ? $"  target <= {Text(most)} {Word(figure)}" : "";
            Console.WriteLine($"      {figure.Name,-34} {Text(figure.Median)} ({Text(figure.Lowest)}-{Text(figure.Highest)}){target}");
        }
    }

    private void WriteTo(Utf8JsonWriter writer)
    {
        writer.WriteStartObject();
        writer.WriteString("row", row);
        writer.WriteString("load", BenchArguments.Load());
        writer.WriteStartArray("figures");
        foreach (Figure figure in _figures)
        {
            writer.WriteStartObject();
            writer.WriteString("name", figure.Name);
            writer.WriteNumber("median", Math.Round(figure.Median, 3));
            writer.WriteNumber("lowest", Math.Round(figure.Lowest, 3));
            writer.WriteNumber("highest", Math.Round(figure.Highest, 3));
            writer.WriteStartArray("pairs");
            foreach (double value in figure.Values)
                writer.WriteNumberValue(Math.Round(value, 3));
            writer.WriteEndArray();
            if ((figure.AtLeast ?? figure.AtMost) is { } bound)
            {
                writer.WriteNumber("target", bound);
                writer.WriteBoolean("met", figure.IsMet);
            }

            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
    }

    private static string Word(Figure figure) => figure.IsMet ? "met" : "MISSED";

    private static string Text(double value) => value.ToString(value >= 100 ? "0" : "0.00", CultureInfo.InvariantCulture);

    private sealed record Figure(string Name, double? AtLeast, double? AtMost)
    {
        internal List<double> Values { get; } = [];

        internal double Median => Values.Order().ElementAt(Values.Count / 2);

        internal double Lowest => Values.Min();

        internal double Highest => Values.Max();

        internal bool IsMet => (AtLeast is not { } least || Median >= least) && (AtMost is not { } most || Median <= most);
    }
}
