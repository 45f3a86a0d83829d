namespace Tidemark.Machine.Description;

/// <summary>A mistake in a machine file.</summary>
/// <param name="Line">Line number, from 1; 0 for the file as a whole.</param>
public sealed record MachineFileProblem(int Line, string Text)
{
    public override string ToString() => Line == 0 ? Text : $"line {Line}: {Text}";
}
