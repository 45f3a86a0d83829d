using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Devices;

/// <summary>
/// A PCI function as hardware plus the migration hooks its variant driver would use. The VFIO layer owns descriptors,
/// the migration state machine, data streams and DMA logging; the model owns registers, queues and its own thread.
/// </summary>
/// <remarks>
/// Run state, driven by the VFIO layer: Running --Quiesce--> Quiesced (no DMA, no interrupts started; registers still
/// answer) --Freeze--> Frozen --Unfreeze--> Quiesced --Run--> Running. A new model is Running. Every transition returns
/// when it holds: after <see cref="Quiesce"/> no DMA is in flight and none begins.
/// Calls from the VFIO layer are serialised, but come beside the model's own thread.
/// </remarks>
internal abstract class SoftDeviceModel : IDisposable
{
    /// <summary>
    /// Regions by VFIO PCI region index (BAR0 is 0, configuration space is 7). A size of 0: not there.
    /// </summary>
    public abstract IReadOnlyList<SoftRegion> Regions { get; }

    /// <summary>MSI-X vectors.</summary>
    public abstract uint MsixVectors { get; }

    /// <summary>Reads registers. The range is inside the region.</summary>
    public abstract Errno ReadRegion(uint region, ulong offset, Span<byte> into);

    /// <summary>Writes registers; a doorbell. The range is inside the region. Any bytes a guest may write.</summary>
    public abstract Errno WriteRegion(uint region, ulong offset, ReadOnlySpan<byte> from);

    /// <summary>
    /// Sets what an MSI-X vector does; null: nothing. The action is quick and may be called from the model's thread.
    /// </summary>
    public abstract void SetInterrupt(uint vector, Action? raise);

    /// <summary>
    /// MSI-X is on or off, as its capability then tells. On before the first action is set, off after the last is gone.
    /// </summary>
    public virtual void SetMsix(bool enabled)
    {
    }

    /// <summary>Where the MSI-X table lies: the BAR, and its bytes in it.</summary>
    public abstract (uint Bar, ulong Offset, ulong ByteLength) MsixTable { get; }

    /// <summary>
    /// Offset in configuration space of the byte whose highest bit starts a reset (PCI Express device control); null:
    /// there is none. The VFIO layer carries it out.
    /// </summary>
    public virtual ulong? FunctionResetByte => null;

    /// <summary>The BARs answer: memory is on in the command register.</summary>
    public virtual bool AnswersMemory => true;

    /// <summary>The region as other devices reach it; null: they do not.</summary>
    public virtual IPeerTarget? PeerOf(uint region) => null;

    /// <summary>Whether the function has an interrupt pin.</summary>
    public abstract bool HasIntx { get; }

    /// <summary>The pin is held: something waits for its driver.</summary>
    public abstract bool IsIntxAsserted { get; }

    /// <summary>
    /// Uses the pin instead of MSI-X, and sets what it does when it is held; null: MSI-X again. The action is quick and
    /// may be called from the model's thread, again and again while the pin is held.
    /// </summary>
    public abstract void SetIntx(Action? assert);

    /// <summary>
    /// Function-level reset: registers to their initial values, in-flight commands forgotten, Running.
    /// </summary>
    /// <param name="keepsConfig">Configuration space is as before, as the host's kernel saves and restores it around a
    /// reset that it was asked for; else it is as when the device was found.</param>
    public abstract void Reset(bool keepsConfig);

    public abstract void Run();

    public abstract void Quiesce();

    public abstract void Freeze();

    public abstract void Unfreeze();

    /// <summary>
    /// State that can be read while the device runs and that the destination wants first (PRE_COPY initial bytes).
    /// </summary>
    public abstract byte[] SaveInitial();

    /// <summary>
    /// State that changed since the last <see cref="SaveInitial"/> or <see cref="SaveChanged"/>, or empty. While the
    /// device runs.
    /// </summary>
    public abstract byte[] SaveChanged();

    /// <summary>
    /// Everything else, when Frozen; the concatenation initial, changed..., final restores the device. Without
    /// PRE_COPY, final alone does.
    /// </summary>
    public abstract byte[] SaveFinal();

    /// <summary>
    /// The end of the final state, after what <see cref="SaveFinal"/> gave: the device's own memory as it lies there, not
    /// copied. It does not change while the device is Frozen.
    /// </summary>
    public virtual ReadOnlyMemory<byte> FinalMemory => default;

    /// <summary>An upper bound of the bytes that <see cref="SaveFinal"/> and <see cref="FinalMemory"/> give.</summary>
    public abstract ulong FinalStateSize { get; }

    /// <summary>LIMIT: state streams longer than this are refused with ENOMEM.</summary>
    public abstract ulong MaximumStateSize { get; }

    /// <summary>
    /// Restores from a whole stream, when Frozen. EINVAL: incomplete or not this device's; the device is then as
    /// before.
    /// </summary>
    public abstract Errno LoadState(ReadOnlySpan<byte> stream);

    public abstract void Dispose();
}

/// <summary>A region of a device.</summary>
/// <param name="MmapAreas">Parts that may be mapped; the rest must be read and written by calls.</param>
internal sealed record SoftRegion(ulong ByteLength, bool Readable, bool Writable, IReadOnlyList<SoftMmapArea> MmapAreas);

/// <summary>A page-aligned part of a region that is plain memory: where it lies in a host file.</summary>
internal sealed record SoftMmapArea(ulong Offset, ulong ByteLength, int HostFd, ulong HostOffset);
