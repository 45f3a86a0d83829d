namespace Tidemark.Memory.Codecs;

/// <summary>
/// Decides, block by block, whether compressing pays for one channel: from measured ratio, speed of compression and speed of
/// the link. No clock of its own and no randomness: what it decides follows from what it was told.
/// </summary>
/// <remarks>
/// <code>
///              a probe says that compressing is faster by a tenth
///     Raw --------------------------------------------------------> Compressing
///      ^  one block is compressed now and then;                        |  a stretch is sent raw now and then;
///      |  the rest measures the link                                   |  the rest measures what compressing achieves
///      '---------------------------------------------------------------'
///         the content has nothing to gain; or compressing achieves less than the link alone
/// </code>
/// The link is measured only while raw blocks are sent: a sender that compresses leaves room in the socket's buffer, and
/// writing there runs at the speed of memory. For the same reason the first blocks after a change count for nothing.
/// Probing may cost a fiftieth of the time, whatever a probe costs, so a wrong guess is never dear.
/// Not safe for concurrent use: one for each channel.
/// </remarks>
public sealed class CompressionGovernor
{
    /// <summary>
    /// LIMIT: content after a change that only fills or drains buffers: as much as both sockets of a connection hold.
    /// </summary>
    private const long SettleBytes = 8 << 20;

    /// <summary>LIMIT: content that a measured rate looks back on.</summary>
    private const long WindowBytes = 8 << 20;

    /// <summary>Time spent otherwise for each unit of time that a probe loses.</summary>
    private const double ProbeThrift = 50;

    /// <summary>Compressing must promise that much to be begun: a tie is not worth the processor.</summary>
    private const double WorthBeginning = 1.1;

    /// <summary>And that much to be kept up.</summary>
    private const double HardlyFaster = 1.02;

    /// <summary>Content of a probe, about: it only sets when the next one is.</summary>
    private const double ProbeBytes = 256 << 10;

    /// <summary>LIMIT: so that a change for the better is found within seconds, however often it was worse.</summary>
    private const double MaximumDoubt = 64;

    private Rate _link;
    private Rate _achieved;
    private double _secondsPerByte;
    private double _ratio;
    private long _settled;
    private double _sinceProbe;
    private double _thrift;
    private double _doubt = 1;
    private long _stretchLeft;

    /// <summary>Whether blocks are compressed at present, probes apart.</summary>
    public bool IsCompressing { get; private set; }

    /// <summary>Content a second that the link takes as it is, or 0 while unknown.</summary>
    public double LinkBytesPerSecond => _link.BytesPerSecond;

    /// <summary>Compressed size through content size, of late; 0 while unknown.</summary>
    public double Ratio => _ratio;

    /// <summary>Whether the next block is to be compressed.</summary>
    public bool ShouldCompress()
    {
        if (IsCompressing)
            return _stretchLeft <= 0;
        // The first thing to find out is what a block compresses to; it serves until there is a link to compare with.
        return _ratio == 0 || (_link.IsKnown && _sinceProbe >= _thrift * _doubt);
    }

    /// <summary>Tells what became of a block that was sent as it is.</summary>
    /// <param name="contentBytes">Its length, not 0.</param>
    /// <param name="took">From the end of the block before to the end of its sending, without waiting for work.</param>
    public void SentRaw(int contentBytes, TimeSpan took)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(contentBytes);
        bool wasKnown = _link.IsKnown;
        _settled += contentBytes;
        _sinceProbe += took.TotalSeconds;
        if (_settled > SettleBytes)
            _link.Add(contentBytes, took.TotalSeconds);
        if (IsCompressing)
        {
            _stretchLeft -= contentBytes;
            if (_stretchLeft <= 0)
                EndStretch();
        }
        else if (!wasKnown)
        {
            Consider();
        }
    }

    /// <summary>Tells what became of a block that was compressed, or was tried to.</summary>
    /// <param name="contentBytes">Its length, not 0.</param>
    /// <param name="sentBytes">What was sent of it: less, or all of it when compressing did not pay.</param>
    /// <param name="compression">The part of the time that compressing took.</param>
    /// <param name="took">As for <see cref="SentRaw"/>, compression included.</param>
    public void SentCompressed(int contentBytes, int sentBytes, TimeSpan compression, TimeSpan took)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(contentBytes);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(sentBytes);
        // A probe stands for many blocks that are sent raw; while compressing, each is one of many.
        double weight = _ratio == 0 ? 1 : IsCompressing ? 0.125 : 0.5;
        _ratio += weight * (Math.Min(1, (double)sentBytes / contentBytes) - _ratio);
        _secondsPerByte += weight * (compression.TotalSeconds / contentBytes - _secondsPerByte);
        if (!IsCompressing)
        {
            _sinceProbe = 0;
            _thrift = ProbeThrift * compression.TotalSeconds;
            Consider();
            return;
        }

        _sinceProbe += took.TotalSeconds;
        _settled += contentBytes;
        if (_settled > SettleBytes)
            _achieved.Add(contentBytes, took.TotalSeconds);
        // The content is such that nothing is to be gained: no doubt about that, and it is looked at again soon.
        if (Predict() < HardlyFaster * _link.BytesPerSecond)
            Change(compressing: false);
        else if (_achieved.IsKnown && _achieved.BytesPerSecond < _link.BytesPerSecond)
            GiveUp();
        else if (_achieved.IsKnown && _sinceProbe >= _thrift)
            BeginStretch();
    }

    /// <summary>
    /// Content a second if the link drains its buffer while the next block is compressed, as it does where it is slow.
    /// Where the processor is what both wait for, it is less; what is achieved then tells.
    /// </summary>
    private double Predict() => Math.Min(1 / _secondsPerByte, _link.BytesPerSecond / _ratio);

    private void Consider()
    {
        if (_link.IsKnown && _ratio > 0 && Predict() > WorthBeginning * _link.BytesPerSecond)
            Change(compressing: true);
    }

    private void BeginStretch()
    {
        _link = default;
        _stretchLeft = SettleBytes + WindowBytes;
        _settled = 0;
        _sinceProbe = 0;
    }

    private void EndStretch()
    {
        // The stretch has measured the link anew. What it cost more than compressing would have sets when the next is.
        double cost = _sinceProbe;
        _sinceProbe = 0;
        _settled = 0;
        _thrift = ProbeThrift * cost;
        if (_achieved.BytesPerSecond < _link.BytesPerSecond)
            GiveUp();
        else
            _doubt = 1;
    }

    private void Change(bool compressing)
    {
        IsCompressing = compressing;
        _settled = 0;
        _sinceProbe = 0;
        _stretchLeft = 0;
        _achieved = default;
        // While compressing, the link as it was is what is compared with, until a stretch measures it again.
        _thrift = ProbeThrift * (compressing
            ? (SettleBytes + WindowBytes) / _link.BytesPerSecond
            : ProbeBytes * _secondsPerByte);
    }

    /// <summary>
    /// What was predicted did not come true. The next try is put off by what this one may have cost, and longer each time.
    /// </summary>
    private void GiveUp()
    {
        double cost = (SettleBytes + WindowBytes) / _achieved.BytesPerSecond;
        Change(compressing: false);
        _thrift = cost;
        _doubt = Math.Min(4 * _doubt, MaximumDoubt);
    }

    /// <summary>Bytes a second over the last bytes, older ones counting less and less.</summary>
    private struct Rate
    {
        private double _bytes;
        private double _seconds;

        internal readonly bool IsKnown => _bytes >= WindowBytes / 4 && _seconds > 0;

        internal readonly double BytesPerSecond => _seconds > 0 ? _bytes / _seconds : 0;

        internal void Add(double bytes, double seconds)
        {
            double keep = Math.Max(0, 1 - bytes / WindowBytes);
            _bytes = _bytes * keep + bytes;
            _seconds = _seconds * keep + seconds;
        }
    }
}
