namespace Tidemark.Migration;

/// <summary>Pages that became dirty in a time: one harvest.</summary>
public readonly record struct ForecastInterval(ulong DirtyPages, TimeSpan Duration);
