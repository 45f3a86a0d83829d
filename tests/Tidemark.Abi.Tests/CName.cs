using System.Text;

namespace Tidemark.Abi.Tests;

/// <summary>The rule from our names to C's: words split at capitals, joined by underscores.</summary>
internal static class CName
{
    public static string Of(string name)
    {
        var text = new StringBuilder();
        for (int i = 0; i < name.Length; i++)
        {
            if (i > 0 && char.IsUpper(name[i]) && StartsWord(name, i))
                text.Append('_');
            text.Append(char.ToLowerInvariant(name[i]));
        }

        return text.ToString();
    }

    public static string OfConstant(string name) => Of(name).ToUpperInvariant();

    // A capital after a small letter, or before one: P2P and MSI stay whole.
    private static bool StartsWord(string name, int i) =>
        char.IsLower(name[i - 1]) || (i + 1 < name.Length && char.IsLower(name[i + 1]));
}
