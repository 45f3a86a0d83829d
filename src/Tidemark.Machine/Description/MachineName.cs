namespace Tidemark.Machine.Description;

/// <summary>The spelling of names that become file names and protocol words.</summary>
public static class MachineName
{
    /// <summary>1 to 64 ASCII letters, digits, '-', '_' or '.', beginning with a letter or digit.</summary>
    public static bool IsValid(string name) =>
        name is { Length: >= 1 and <= 64 } && char.IsAsciiLetterOrDigit(name[0])
        && name.All(character => char.IsAsciiLetterOrDigit(character) || character is '-' or '_' or '.');

    /// <summary>An enumeration member as users write it: <c>ReadOnly</c> is <c>read-only</c>.</summary>
    public static string ToWord(string pascalCase) =>
        string.Concat(pascalCase.Select((character, index) =>
            char.IsAsciiLetterUpper(character)
                ? (index > 0 ? "-" : "") + char.ToLowerInvariant(character)
                : character.ToString()));
}
