namespace Tidemark.Abi;

/// <summary>
/// Names what a declaration mirrors in the kernel's headers. The layout test compares the two: a struct field by field,
/// an enumeration member by member.
/// </summary>
/// <remarks>
/// On a struct: the C name without the word <c>struct</c>. On an enumeration: a pattern whose <c>*</c> stands for the
/// member's name in capitals with underscores. On a field or a member: the C name itself, where the rule (words split
/// at capitals, joined by underscores) does not produce it; several where C gives several names to one place.
/// </remarks>
[AttributeUsage(AttributeTargets.Struct | AttributeTargets.Enum | AttributeTargets.Field, AllowMultiple = true)]
public sealed class UapiAttribute(string name) : Attribute
{
    /// <summary>The C name or, on an enumeration, the pattern of its members' names.</summary>
    public string Name { get; } = name;

    /// <summary>The first kernel release that has it, for instance <c>6.2</c>.</summary>
    public string Since { get; init; } = "";
}
