namespace Tidemark.Migration;

/// <summary>A pass that a forecast expects; the last one of a switchover has the downtime as its duration.</summary>
public readonly record struct ForecastPass(int Index, ulong DirtyPages, ulong Bytes, TimeSpan Duration);
