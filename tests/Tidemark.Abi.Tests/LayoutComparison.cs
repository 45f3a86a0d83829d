using System.Globalization;
using System.Reflection;

namespace Tidemark.Abi.Tests;

/// <summary>Compares declarations with a layout table. Each difference is one line; none means they agree.</summary>
internal sealed class LayoutComparison(LayoutTable table)
{
    private const string Padding = "Padding";

    /// <summary>The C names of the constants that a comparison has met.</summary>
    public HashSet<string> MetConstants { get; } = [];

    public List<string> CompareStruct(Type type)
    {
        string name = NamesOn(type).Single();
        if (!table.Structs.TryGetValue(name, out int size))
            return [$"{type.Name}: the headers have no struct {name}"];

        List<string> differences = [];
        if (StructMeasure.SizeOf(type) != size)
            differences.Add($"{type.Name}: {StructMeasure.SizeOf(type)} bytes, struct {name} has {size}");

        // Leading underscores carry no information: __reserved and reserved are both Reserved.
        var expected = table.FieldsOf(name).ToDictionary(f => f.Key.TrimStart('_'), f => f.Value);
        foreach (FieldInfo field in FieldsOf(type))
        {
            FieldPlace place = StructMeasure.PlaceOf(field);
            foreach (string cName in NamesOf(field))
            {
                if (expected.Remove(cName, out FieldPlace right))
                {
                    if (place != right)
                        differences.Add($"{type.Name}.{field.Name}: {place}; {name}.{cName}: {right}");
                }
                else if (!IsPadding(field, place, name))
                {
                    differences.Add($"{type.Name}.{field.Name}: struct {name} has no field {cName}");
                }
            }
        }

        foreach ((string cName, FieldPlace right) in expected)
        {
            if (right.Size != 0)
                differences.Add($"{type.Name}: nothing mirrors {name}.{cName}");
            else if (right.Offset != size)
                differences.Add($"{type.Name}: the array {name}.{cName} does not start where the struct ends");
        }

        return differences;
    }

    public List<string> CompareEnum(Type type)
    {
        string? pattern = NamesOn(type).SingleOrDefault();
        List<string> differences = [];
        foreach (FieldInfo member in type.GetFields(BindingFlags.Public | BindingFlags.Static))
        {
            ulong value = Bits(member.GetRawConstantValue()!);
            string[] own = NamesOn(member);
            string[] names = own.Length > 0 || pattern is null
                ? own
                : [pattern.Replace("*", CName.OfConstant(member.Name), StringComparison.Ordinal)];

            // Flags have a name for "none" here, where C writes 0.
            if (member.Name == "None" && value == 0 && !names.Any(table.Constants.ContainsKey))
                continue;
            if (names.Length == 0)
                differences.Add($"{type.Name}.{member.Name}: names no constant");
            foreach (string cName in names)
                CompareConstant($"{type.Name}.{member.Name}", cName, value, differences);
        }

        return differences;
    }

    public List<string> CompareRequests(Type type)
    {
        List<string> differences = [];
        foreach (PropertyInfo property in type.GetProperties(BindingFlags.Public | BindingFlags.Static))
        {
            var request = (IoctlRequest)property.GetValue(null)!;
            CompareConstant($"{type.Name}.{property.Name}", request.Name, request.Value, differences);
        }

        return differences;
    }

    /// <summary>Constants beside the fields of any type, where they name a C constant.</summary>
    public List<string> CompareNamedConstants(Type type)
    {
        List<string> differences = [];
        foreach (FieldInfo field in type.GetFields(BindingFlags.Public | BindingFlags.Static).Where(f => f.IsLiteral))
        {
            foreach (string cName in NamesOn(field))
                CompareConstant($"{type.Name}.{field.Name}", cName, Bits(field.GetRawConstantValue()!), differences);
        }

        return differences;
    }

    public static IEnumerable<FieldInfo> FieldsOf(Type type) =>
        type.GetFields(BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance);

    private void CompareConstant(string who, string cName, ulong value, List<string> differences)
    {
        MetConstants.Add(cName);
        if (!table.Constants.TryGetValue(cName, out ulong right))
            differences.Add($"{who}: the headers have no constant {cName}");
        else if (value != right)
            differences.Add($"{who}: 0x{value:x}; {cName}: 0x{right:x}");
    }

    // What C leaves to the compiler we write down; it must then lie where no C field does.
    private bool IsPadding(FieldInfo field, FieldPlace place, string structName) =>
        field.Name == Padding
        && table.FieldsOf(structName).Values.All(
            f => f.Offset + f.Size <= place.Offset || place.Offset + place.Size <= f.Offset);

    private static string[] NamesOf(FieldInfo field) =>
        NamesOn(field) is { Length: > 0 } own ? own : [CName.Of(field.Name)];

    private static string[] NamesOn(MemberInfo member) =>
        [.. member.GetCustomAttributes<UapiAttribute>(inherit: false).Select(a => a.Name)];

    private static ulong Bits(object value) => value switch
    {
        int number => unchecked((uint)number),
        _ => Convert.ToUInt64(value, CultureInfo.InvariantCulture),
    };
}
