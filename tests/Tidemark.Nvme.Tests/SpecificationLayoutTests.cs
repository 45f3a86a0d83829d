using System.Buffers.Binary;

namespace Tidemark.Nvme.Tests;

/// <summary>
/// Offsets are written here as numbers, from the figures of NVM Express 1.4, not taken from the code.
/// </summary>
public sealed class SpecificationLayoutTests
{
    [Fact]
    public void A_submission_entry_has_its_fields_where_the_specification_has_them()
    {
        byte[] bytes = new byte[64];
        new Random(1).NextBytes(bytes);
        SubmissionEntry entry = SubmissionEntry.Parse(bytes);
        Assert.Equal(bytes[0], entry.Opcode);
        Assert.Equal(bytes[1], entry.Flags);
        Assert.Equal(BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(2)), entry.CommandId);
        Assert.Equal(BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(4)), entry.NamespaceId);
        Assert.Equal(BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(16)), entry.MetadataPointer);
        Assert.Equal(BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(24)), entry.Prp1);
        Assert.Equal(BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(32)), entry.Prp2);
        Assert.Equal(BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(40)), entry.StartingBlock);
        Assert.Equal(BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(48)) + 1u, entry.BlockCount);
        byte[] again = new byte[64];
        entry.Format(again);
        bytes.AsSpan(8, 8).Clear(); // Reserved.
        Assert.Equal(bytes, again);
    }

    [Fact]
    public void A_completion_entry_has_its_fields_where_the_specification_has_them()
    {
        byte[] bytes = new byte[16];
        new CompletionEntry
        {
            Result = 0x11223344,
            SubmissionHead = 0x5566,
            SubmissionQueue = 0x7788,
            CommandId = 0x99aa,
            Phase = true,
            Status = NvmeStatus.LbaOutOfRange,
        }.Format(bytes);
        Assert.Equal("443322110000000066558877AA990181", Convert.ToHexString(bytes));
        Assert.Equal(NvmeStatus.LbaOutOfRange, CompletionEntry.Parse(bytes).Status);
        Assert.True(CompletionEntry.PhaseOf(BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(12))));
    }

    [Fact]
    public void Identify_structures_have_their_fields_where_the_specification_has_them()
    {
        byte[] bytes = new byte[4096];
        var controller = new IdentifyController
        {
            SerialNumber = "SERIAL",
            ModelNumber = "MODEL",
            FirmwareRevision = "FW",
            VendorId = 0x1d1d,
            MaximumTransferShift = 8,
            AsynchronousEventLimit = 4,
            NamespaceCount = 1,
            HasVolatileWriteCache = true,
        };
        controller.Format(bytes);
        Assert.Equal(0x1d1d, BinaryPrimitives.ReadUInt16LittleEndian(bytes));
        Assert.Equal("SERIAL              MODEL ", System.Text.Encoding.ASCII.GetString(bytes, 4, 26));
        Assert.Equal(8, bytes[77]);
        Assert.Equal(0x10400u, BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(80)));
        Assert.Equal(3, bytes[259]);
        Assert.Equal(0x66, bytes[512]);
        Assert.Equal(0x44, bytes[513]);
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(516)));
        Assert.Equal(1, bytes[525]);
        Assert.Equal(controller, IdentifyController.Parse(bytes));

        var space = new IdentifyNamespace { BlockCount = 1000, BlockShift = 9, WriteProtected = true };
        space.Format(bytes);
        Assert.Equal(1000ul, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
        Assert.Equal(1, bytes[99]);
        Assert.Equal(0x0009_0000u, BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(128)));
        Assert.Equal(space, IdentifyNamespace.Parse(bytes));
    }

    [Fact]
    public void Registers_are_packed_as_the_specification_has_them()
    {
        ControllerCapabilities capabilities = ControllerCapabilities.Create(1024, 10, controllerMemory: true);
        Assert.Equal(0x0200_0020_0a01_03fful, capabilities.Value);
        Assert.Equal(TimeSpan.FromSeconds(5), capabilities.ReadyTimeout);
        Assert.Equal(0x0046_0001u, ControllerConfiguration.Usual.Value);
        Assert.Equal(0x001f_000fu, AdminQueueAttributes.Create(16, 32).Value);
        Assert.Equal(0x4001u, ControllerMemorySize.CreateForSubmissionQueues(4).Value);
        Assert.Equal(0x1008ul, NvmeRegister.SubmissionDoorbell(1, 4));
        Assert.Equal(0x100cul, NvmeRegister.CompletionDoorbell(1, 4));
        Assert.Equal(0x1018ul, NvmeRegister.CompletionDoorbell(1, 8));
    }

    [Theory]
    [InlineData(0x1000, 4096, 1)]
    [InlineData(0x1ffc, 512, 2)]
    [InlineData(0x1000, 8192, 2)]
    [InlineData(0x1004, 8192, 3)]
    [InlineData(0x1000, 1 << 20, 256)]
    [InlineData(0x1004, 1 << 20, 257)]
    public void Pages_of_a_transfer_are_counted(ulong prp1, uint byteLength, uint pages) =>
        Assert.Equal(pages, PrpGeometry.CountPages(prp1, byteLength));
}
