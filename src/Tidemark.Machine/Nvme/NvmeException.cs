namespace Tidemark.Machine.Nvme;

/// <summary>A controller that does not do what its driver asks, or a saved driver state that is not one.</summary>
public sealed class NvmeException(string message, Exception? inner = null) : Exception(message, inner);
