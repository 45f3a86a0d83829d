using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// Answers a source that does not know what became of its machine. Its host runs it for as long as the answer may be
/// needed: until it was given, or the process ends.
/// </summary>
public sealed class HandoverWitness
{
    private static readonly TimeSpan NewcomerLimit = TimeSpan.FromSeconds(5);

    private readonly IAcceptor _acceptor;
    private readonly Guid _token;

    internal HandoverWitness(IAcceptor acceptor, Guid token, MachineFate fate)
    {
        _acceptor = acceptor;
        _token = token;
        Fate = fate;
    }

    /// <summary>What it says.</summary>
    public MachineFate Fate { get; }

    /// <summary>Listens where the migration came in, and answers; returns when the source has its answer, when it is
    /// cancelled, or when nobody can connect any more.</summary>
    public void Run(TimeProvider time, CancellationToken cancel)
    {
        try
        {
            while (!AnswerNext(_acceptor.Accept(cancel), time))
            {
            }
        }
        catch (Exception failure) when (failure is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // Nobody can ask any more; the machine is not concerned.
        }
    }

    internal static bool Answer(IConnection connection, Preamble preamble, MachineFate fate)
    {
        try
        {
            Preamble.Create(PreambleRole.Destination, preamble.Channel, preamble.Token).Send(connection);
            Span<byte> payload = stackalloc byte[4];
            Messages.WriteFate(payload, fate);
            new FrameWriter(connection, 0).Send(FrameType.Fate, payload);
            // The asker closes when it has read it; a close from here could overtake it.
            connection.IdleTimeout = TimeSpan.FromSeconds(1);
            return connection.Receive(payload) == 0;
        }
        catch (IOException)
        {
            // It went away and will ask again.
            return false;
        }
        finally
        {
            connection.Dispose();
        }
    }

    private bool AnswerNext(IConnection connection, TimeProvider time)
    {
        Preamble preamble;
        try
        {
            preamble = Preamble.Receive(connection, NewcomerLimit, time);
        }
        catch (Exception failure) when (failure is NotTidemarkException or MigrationStreamException)
        {
            // Somebody else; this migration is over.
            connection.Dispose();
            return false;
        }

        if (preamble.Role == PreambleRole.Query && preamble.Token == _token)
            return Answer(connection, preamble, Fate);
        connection.Dispose();
        return false;
    }
}
