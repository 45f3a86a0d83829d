using System.Text.Json.Nodes;
using Tidemark.Memory.Codecs;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>What a control request says about how a machine is to be moved. Options that it lacks have their
/// defaults.</summary>
internal static class MigrationRequest
{
    /// <exception cref="CommandFailure">Something is asked for that this host does not have.</exception>
    public static MigrationOptions Read(JsonObject request)
    {
        var defaults = new MigrationOptions();
        Compression compression = Word<Compression>(request, "compress") ?? Compression.Off;
        return defaults with
        {
            Channels = request["channels"]?.GetValue<int>() ?? defaults.Channels,
            DowntimeLimit = Milliseconds(request, "downtimeLimitMilliseconds") ?? defaults.DowntimeLimit,
            Verify = request["verify"]?.GetValue<bool>() ?? false,
            WhenStuck = Word<WhenStuck>(request, "whenStuck") ?? defaults.WhenStuck,
            LimitCeiling = Milliseconds(request, "limitCeilingMilliseconds") ?? defaults.LimitCeiling,
            Timeout = Milliseconds(request, "timeoutMilliseconds"),
            RetryFor = Milliseconds(request, "retryMilliseconds") ?? defaults.RetryFor,
            Compression = compression,
            Codec = compression == Compression.Off ? null : FindCodec() ?? throw new CommandFailure(WhyNoCodec()),
        };
    }

    /// <summary>Makes codecs, or null where the system has no libzstd.</summary>
    public static Func<IPageCodec>? FindCodec()
    {
        if (!ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out ZstdCodec? probe, out _))
            return null;
        probe.Dispose();
        return () => ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out ZstdCodec? codec, out string? why)
            ? codec
            : throw new IOException(why);
    }

    private static string WhyNoCodec()
    {
        ZstdCodec.TryCreate(ZstdCodec.DefaultLevel, out ZstdCodec? codec, out string? why);
        codec?.Dispose();
        return $"Pages can not be compressed here: {why}";
    }

    private static TimeSpan? Milliseconds(JsonObject request, string key) =>
        request[key] is { } value ? TimeSpan.FromMilliseconds(value.GetValue<long>()) : null;

    private static T? Word<T>(JsonObject request, string key)
        where T : struct, Enum => (string?)request[key] is { } word
            ? Enum.TryParse(word.Replace("-", "", StringComparison.Ordinal), ignoreCase: true, out T value)
                ? value
                : throw new CommandFailure($"{key} is \"{word}\", which is not known.", ExitCode.Usage)
            : null;
}
