namespace Tidemark.Nvme;

/// <summary>Opcodes of the admin command set. NVM Express 1.4 section 5.</summary>
public enum AdminOpcode : byte
{
    DeleteSubmissionQueue = 0x00,
    CreateSubmissionQueue = 0x01,
    GetLogPage = 0x02,
    DeleteCompletionQueue = 0x04,
    CreateCompletionQueue = 0x05,
    Identify = 0x06,
    Abort = 0x08,
    SetFeatures = 0x09,
    GetFeatures = 0x0a,
    AsynchronousEventRequest = 0x0c,
}

/// <summary>Opcodes of the NVM command set. NVM Express 1.4 section 6.</summary>
public enum NvmOpcode : byte
{
    Flush = 0x00,
    Write = 0x01,
    Read = 0x02,
}

/// <summary>CNS of Identify. NVM Express 1.4 section 5.15.1.</summary>
public enum IdentifyStructure : byte
{
    Namespace = 0x00,
    Controller = 0x01,
    ActiveNamespaces = 0x02,
    NamespaceDescriptors = 0x03,
}

/// <summary>Feature identifiers. NVM Express 1.4 section 5.21.1.</summary>
public enum FeatureId : byte
{
    Arbitration = 0x01,
    PowerManagement = 0x02,
    TemperatureThreshold = 0x04,
    ErrorRecovery = 0x05,
    VolatileWriteCache = 0x06,
    NumberOfQueues = 0x07,
    InterruptCoalescing = 0x08,
    InterruptVectorConfiguration = 0x09,
    WriteAtomicity = 0x0a,
    AsynchronousEventConfiguration = 0x0b,
}

/// <summary>Log pages. NVM Express 1.4 section 5.14.1.</summary>
public enum LogPageId : byte
{
    Error = 0x01,
    Health = 0x02,
    FirmwareSlot = 0x03,
}

/// <summary>What an asynchronous event of the type "error status" says. NVM Express 1.4 section 5.2.1.</summary>
public enum ErrorEvent : byte
{
    InvalidDoorbellRegister = 0,
    InvalidDoorbellValue = 1,
    PersistentInternalError = 3,
}
