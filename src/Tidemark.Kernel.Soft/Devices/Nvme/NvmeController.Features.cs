using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>Features, log pages and the counters behind them.</summary>
internal sealed partial class NvmeController
{
    private const int FeatureCount = 12;
    private const int HealthByteLength = 512;
    private const int ErrorEntryByteLength = 64;

    private readonly uint[] _features = new uint[FeatureCount];

    private ulong _blocksRead;
    private ulong _blocksWritten;
    private ulong _readCommands;
    private ulong _writeCommands;
    private ulong _mediaErrors;

    private static uint QueuesGranted => (NvmeLimits.IOQueues - 1u) << 16 | (NvmeLimits.IOQueues - 1u);

    private bool WriteCacheEnabled => (_features[(int)FeatureId.VolatileWriteCache] & 1) != 0;

    private void ResetFeatures()
    {
        for (int index = 0; index < FeatureCount; index++)
            _features[index] = DefaultFeature((FeatureId)index);
    }

    private static uint DefaultFeature(FeatureId feature) => feature switch
    {
        FeatureId.Arbitration => 7, // Burst: no limit.
        FeatureId.TemperatureThreshold => 343,
        FeatureId.VolatileWriteCache => 1,
        FeatureId.NumberOfQueues => QueuesGranted,
        _ => 0,
    };

    private static bool IsKnown(FeatureId feature) => feature is FeatureId.Arbitration or FeatureId.PowerManagement
        or FeatureId.TemperatureThreshold or FeatureId.ErrorRecovery or FeatureId.VolatileWriteCache
        or FeatureId.NumberOfQueues or FeatureId.InterruptCoalescing or FeatureId.InterruptVectorConfiguration
        or FeatureId.WriteAtomicity or FeatureId.AsynchronousEventConfiguration;

    /// <summary>Section 5.21.</summary>
    private NvmeStatus SetFeature(SubmissionEntry entry, out uint granted)
    {
        granted = 0;
        var feature = (FeatureId)(entry.Dword10 & 0xff);
        if ((entry.Dword10 & 1u << 31) != 0)
            return NvmeStatus.FeatureNotSaveable;
        if (!IsKnown(feature))
            return NvmeStatus.InvalidField;
        switch (feature)
        {
            case FeatureId.NumberOfQueues:
                if ((entry.Dword11 & 0xffff) == 0xffff || entry.Dword11 >> 16 == 0xffff)
                    return NvmeStatus.InvalidField;
                if (_completionQueues.AsSpan(1).ContainsAnyExcept((NvmeCompletionQueue?)null))
                    return NvmeStatus.CommandSequenceError;
                granted = QueuesGranted;
                return NvmeStatus.Success;
            case FeatureId.PowerManagement when (entry.Dword11 & 0x1f) != 0:
            case FeatureId.InterruptVectorConfiguration when (entry.Dword11 & 0xffff) >= NvmeLimits.Vectors:
                return NvmeStatus.InvalidField;
            case FeatureId.VolatileWriteCache when (entry.Dword11 & 1) == 0 && _disk.Flush() != Errno.Success:
                return NvmeStatus.WriteFault;
            default:
                _features[(int)feature] = entry.Dword11;
                return NvmeStatus.Success;
        }
    }

    /// <summary>Section 5.13. Select: 0 current, 1 default, 2 saved (as default), 3 capabilities (none).</summary>
    private NvmeStatus GetFeature(SubmissionEntry entry, out uint value)
    {
        value = 0;
        var feature = (FeatureId)(entry.Dword10 & 0xff);
        uint select = entry.Dword10 >> 8 & 7;
        if (!IsKnown(feature) || select > 3)
            return NvmeStatus.InvalidField;
        value = select switch
        {
            0 => _features[(int)feature],
            3 => 0,
            _ => DefaultFeature(feature),
        };
        return NvmeStatus.Success;
    }

    /// <summary>Section 5.14. What a log does not fill reads as zeros, up to a page.</summary>
    private NvmeStatus GetLogPage(NvmeCommand command)
    {
        SubmissionEntry entry = command.Entry;
        var page = (LogPageId)(entry.Dword10 & 0xff);
        bool retainEvent = (entry.Dword10 & 1u << 15) != 0;
        ulong wanted = (((entry.Dword11 & 0xffffUL) << 16 | entry.Dword10 >> 16) + 1) * sizeof(uint);
        ulong offset = entry.Dword12 | (ulong)entry.Dword13 << 32;
        Span<byte> log = stackalloc byte[PrpGeometry.PageByteLength];
        log.Clear();
        int length;
        switch (page)
        {
            case LogPageId.Error:
                length = ErrorEntryByteLength;
                break;
            case LogPageId.Health:
                length = HealthByteLength;
                FormatHealth(log);
                break;
            case LogPageId.FirmwareSlot:
                length = HealthByteLength;
                log[0] = 1; // Slot 1 is active.
                log[8] = (byte)'1';
                log[9..16].Fill((byte)' ');
                break;
            default:
                return NvmeStatus.InvalidLogPage;
        }

        if (offset % sizeof(uint) != 0 || offset > (ulong)length || wanted > NvmeLimits.TransferBytes)
            return NvmeStatus.InvalidField;
        int take = (int)Math.Min(wanted, PrpGeometry.PageByteLength - offset);
        NvmeStatus status = SendData(command, log.Slice((int)offset, take));
        if (status.Succeeded && page == LogPageId.Error && !retainEvent)
            _errorEventsMasked = false;
        return status;
    }

    /// <summary>SMART / health information. Section 5.14.1.2, figure 194.</summary>
    private void FormatHealth(Span<byte> log)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(log[1..], 300); // Kelvin.
        log[3] = 100; // Spare, in percent.
        log[4] = 10; // Its threshold.
        // Data units are thousands of 512-byte blocks, rounded up.
        BinaryPrimitives.WriteUInt64LittleEndian(log[32..], (_blocksRead + 999) / 1000);
        BinaryPrimitives.WriteUInt64LittleEndian(log[48..], (_blocksWritten + 999) / 1000);
        BinaryPrimitives.WriteUInt64LittleEndian(log[64..], _readCommands);
        BinaryPrimitives.WriteUInt64LittleEndian(log[80..], _writeCommands);
        BinaryPrimitives.WriteUInt64LittleEndian(log[160..], _mediaErrors);
    }

    private void CountTransfer(bool isRead, uint byteLength)
    {
        ulong blocks = byteLength >> NvmeLimits.BlockShift;
        unchecked
        {
            if (isRead)
            {
                _blocksRead += blocks;
                _readCommands++;
            }
            else
            {
                _blocksWritten += blocks;
                _writeCommands++;
            }
        }
    }

    private void CountMediaError() => _mediaErrors = unchecked(_mediaErrors + 1);
}
