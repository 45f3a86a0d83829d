using System.Globalization;
using System.Net;

namespace Tidemark.Machine.Transport;

/// <summary>
/// Where a migration comes from or goes to, as users write it: <c>tcp:host:port</c>, <c>tcp:[v6]:port</c>,
/// <c>unix:path</c>, <c>fd:n-m</c> (connected stream sockets that were handed in: one for control, one for each
/// channel).
/// </summary>
public abstract record MigrationAddress
{
    /// <summary>LIMIT: channels of a migration, beside the control connection.</summary>
    private const int MaximumChannels = 64;

    private MigrationAddress()
    {
    }

    public sealed record Tcp(string Host, int Port) : MigrationAddress
    {
        /// <summary>Whether only this machine can reach it.</summary>
        public bool IsLoopback =>
            Host == "localhost" || (IPAddress.TryParse(Host, out IPAddress? address) && IPAddress.IsLoopback(address));

        public override string ToString() =>
            Host.Contains(':', StringComparison.Ordinal) ? $"tcp:[{Host}]:{Port}" : $"tcp:{Host}:{Port}";
    }

    public sealed record Unix(string Path) : MigrationAddress
    {
        public override string ToString() => $"unix:{Path}";
    }

    /// <param name="Fd">The first descriptor: control. The channels' follow it, without a gap.</param>
    public sealed record Descriptor(int Fd) : MigrationAddress
    {
        /// <summary>How many sockets were handed in.</summary>
        public int Count { get; init; } = 1;

        public override string ToString() => Count == 1 ? $"fd:{Fd}" : $"fd:{Fd}-{Fd + Count - 1}";
    }

    /// <summary>Null with a sentence for the user when the text is none of the forms.</summary>
    public static MigrationAddress? Parse(string text, out string problem)
    {
        problem = "";
        int colon = text.IndexOf(':', StringComparison.Ordinal);
        string scheme = colon < 0 ? "" : text[..colon];
        string rest = colon < 0 ? text : text[(colon + 1)..];
        switch (scheme)
        {
            case "tcp":
                int last = rest.LastIndexOf(':');
                string host = last < 0 ? "" : rest[..last];
                if (host.StartsWith('[') && host.EndsWith(']'))
                    host = host[1..^1];
                else if (host.Contains(':', StringComparison.Ordinal))
                    host = "";
                if (host.Length > 0 && int.TryParse(rest[(last + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out int port)
                    && port is >= 0 and <= 65535)
                    return new Tcp(host, port);
                problem = $"\"{text}\" is not an address: after tcp: come a host and a port, as in tcp:127.0.0.1:4711 or tcp:[::1]:4711.";
                return null;
            case "unix":
                // LIMIT: sun_path has 108 bytes including the closing zero.
                if (rest.Length > 0 && System.Text.Encoding.UTF8.GetByteCount(rest) < 108)
                    return new Unix(rest);
                problem = rest.Length == 0
                    ? $"\"{text}\" is not an address: after unix: comes the path of a socket."
                    : $"\"{text}\" is not an address: a Unix socket's path has at most 107 bytes.";
                return null;
            case "fd":
                int dash = rest.IndexOf('-', StringComparison.Ordinal);
                if (int.TryParse(dash < 0 ? rest : rest[..dash], NumberStyles.None, CultureInfo.InvariantCulture, out int fd)
                    && int.TryParse(rest[(dash + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out int final)
                    && final >= fd && final - fd <= MaximumChannels)
                    return new Descriptor(fd) { Count = final - fd + 1 };
                problem = $"\"{text}\" is not an address: after fd: come the numbers of open sockets, the first for control and one for each channel, as in fd:3-4.";
                return null;
            case "file":
                problem = $"\"{text}\" is not an address: a machine goes to a file with `tidemark snapshot save` and comes back from it with `tidemark snapshot restore`.";
                return null;
            default:
                problem = $"\"{text}\" is not an address; use tcp:host:port, unix:path or fd:n-m.";
                return null;
        }
    }
}
