using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Tidemark.Abi.Tests;

/// <summary>
/// Measures a struct as the runtime lays it out: each field in turn is filled with ones, and the bytes that change are
/// the field. Nothing is derived from attributes.
/// </summary>
internal static class StructMeasure
{
    public static int SizeOf(Type type) => (int)Call(nameof(SizeOfCore), type, []);

    public static FieldPlace PlaceOf(FieldInfo field)
    {
        object boxed = Activator.CreateInstance(field.DeclaringType!)!;
        field.SetValue(boxed, Call(nameof(AllOnes), field.FieldType, []));
        byte[] bytes = (byte[])Call(nameof(BytesOf), field.DeclaringType!, [boxed]);
        int first = Array.FindIndex(bytes, b => b != 0);
        int last = Array.FindLastIndex(bytes, b => b != 0);
        Assert.All(bytes[first..(last + 1)], b => Assert.Equal(0xFF, b));
        return new FieldPlace(first, last - first + 1);
    }

    private static object Call(string method, Type type, object[] arguments) =>
        typeof(StructMeasure)
            .GetMethod(method, BindingFlags.NonPublic | BindingFlags.Static)!
            .MakeGenericMethod(type)
            .Invoke(null, arguments)!;

    private static int SizeOfCore<T>()
        where T : unmanaged => Unsafe.SizeOf<T>();

    private static T AllOnes<T>()
        where T : unmanaged
    {
        T value = default;
        MemoryMarshal.AsBytes(new Span<T>(ref value)).Fill(0xFF);
        return value;
    }

    private static byte[] BytesOf<T>(T value)
        where T : unmanaged => MemoryMarshal.AsBytes(new Span<T>(ref value)).ToArray();
}
