using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;

namespace Tidemark.Vfio.Tests;

/// <summary>The sentences that scripts are made of.</summary>
internal static class Script
{
    public const int IommufdNumber = 10;

    public static Iommufd OpenIommufd(this ScriptedKernel kernel) =>
        Iommufd.FromFd(new KernelFd(kernel, IommufdNumber, owned: false));

    public static IommufdContainer CreateContainer(this ScriptedKernel kernel, uint ioasId = 1)
    {
        kernel.ExpectIoasAlloc(ioasId);
        return IommufdContainer.Create(kernel.OpenIommufd());
    }

    public static VfioDevice BindDevice(
        this ScriptedKernel kernel, Iommufd iommufd, int fd, uint deviceId, string? name = null, bool isMdev = false)
    {
        VfioDevice device = VfioDevice.FromFd(new KernelFd(kernel, fd), name ?? $"device{fd}", isMdev);
        kernel.Expect(VfioRequests.DeviceBindIommufd, (_, argument) =>
        {
            Assert.Equal(16, argument.Read32(0));
            Assert.Equal(IommufdNumber, argument.Read32(8));
            return argument.Write32(12, deviceId);
        });
        device.BindIommufd(iommufd);
        return device;
    }

    public static void ExpectIoasAlloc(this ScriptedKernel kernel, uint id) =>
        kernel.Expect(IommufdRequests.IoasAlloc, (_, argument) => argument.Write32(8, id));

    public static void ExpectHwInfo(
        this ScriptedKernel kernel, uint deviceId, bool dirty, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.GetHwInfo, (_, argument) =>
        {
            Assert.Equal(deviceId, (uint)argument.Read32(8));
            argument.Write32(12, 24);
            argument.Write32(24, (uint)IommuHwInfoType.IntelVtd);
            BinaryPrimitives.WriteUInt64LittleEndian(argument[32..], dirty ? 1UL : 0UL);
            return errno;
        });

    public static void ExpectAttach(
        this ScriptedKernel kernel, int fd, uint pageTableId, Errno errno = Errno.Success) =>
        kernel.Expect(VfioRequests.DeviceAttachIommufdPt, (actual, argument) =>
        {
            Assert.Equal(fd, actual);
            Assert.Equal(pageTableId, (uint)argument.Read32(8));
            return errno;
        });

    public static void ExpectDetach(this ScriptedKernel kernel, int fd, Errno errno = Errno.Success) =>
        kernel.Expect(VfioRequests.DeviceDetachIommufdPt, (actual, _) =>
        {
            Assert.Equal(fd, actual);
            return errno;
        });

    public static void ExpectHwptAlloc(
        this ScriptedKernel kernel, uint deviceId, IommuHwptAllocFlags flags, uint id, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.HwptAlloc, (_, argument) =>
        {
            Assert.Equal((uint)flags, (uint)argument.Read32(4));
            Assert.Equal(deviceId, (uint)argument.Read32(8));
            argument.Write32(16, id);
            return errno;
        });

    public static void ExpectDestroy(this ScriptedKernel kernel, uint id, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.Destroy, (_, argument) =>
        {
            Assert.Equal(id, (uint)argument.Read32(4));
            return errno;
        });

    public static void ExpectMap(this ScriptedKernel kernel, ulong iova, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.IoasMap, (_, argument) =>
        {
            Assert.Equal(iova, argument.Read64(32));
            return errno;
        });

    public static void ExpectMapFile(this ScriptedKernel kernel, ulong iova, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.IoasMapFile, (_, argument) =>
        {
            Assert.Equal(iova, argument.Read64(32));
            return errno;
        });

    public static void ExpectUnmap(this ScriptedKernel kernel, ulong iova, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.IoasUnmap, (_, argument) =>
        {
            Assert.Equal(iova, argument.Read64(8));
            return errno;
        });

    /// <summary>The two calls that ask for usable IOVAs.</summary>
    public static unsafe void ExpectUsableIovas(this ScriptedKernel kernel, params (ulong First, ulong Last)[] ranges)
    {
        kernel.Expect(IommufdRequests.IoasIovaRanges, (_, argument) =>
        {
            Assert.Equal(0, argument.Read32(8));
            argument.Write32(8, (uint)ranges.Length);
            return Errno.EMSGSIZE;
        });
        kernel.Expect(IommufdRequests.IoasIovaRanges, (_, argument) =>
        {
            Assert.Equal(ranges.Length, argument.Read32(8));
            var list = (ulong*)argument.Read64(16);
            foreach ((ulong first, ulong last) in ranges)
            {
                *list++ = first;
                *list++ = last;
            }

            BinaryPrimitives.WriteUInt64LittleEndian(argument[24..], 4096);
            return Errno.Success;
        });
    }

    public static void ExpectTracking(
        this ScriptedKernel kernel, uint hwptId, bool on, Errno errno = Errno.Success) =>
        kernel.Expect(IommufdRequests.HwptSetDirtyTracking, (_, argument) =>
        {
            Assert.Equal(on ? 1 : 0, argument.Read32(4));
            Assert.Equal(hwptId, (uint)argument.Read32(8));
            return errno;
        });

    /// <summary>One read of dirty bits; the pages, counted from the start of the read, are what the kernel
    /// sets.</summary>
    public static unsafe void ExpectDirtyRead(
        this ScriptedKernel kernel, ulong iova, ulong length, Errno errno = Errno.Success, params ulong[] pages) =>
        kernel.Expect(IommufdRequests.HwptGetDirtyBitmap, (_, argument) =>
        {
            Assert.Equal(iova, argument.Read64(16));
            Assert.Equal(length, argument.Read64(24));
            Assert.Equal(4096UL, argument.Read64(32));
            SetBits(argument.Read64(40), pages);
            return errno;
        });

    public static unsafe void SetBits(ulong bitmap, ulong[] pages)
    {
        foreach (ulong page in pages)
            ((byte*)bitmap)[page / 8] |= (byte)(1 << (int)(page % 8));
    }

    /// <summary>A probe or a payload-less operation of VFIO_DEVICE_FEATURE.</summary>
    public static void ExpectFeature(
        this ScriptedKernel kernel, VfioDeviceFeatureIndex feature, VfioDeviceFeatureFlags operation, Answer answer) =>
        kernel.Expect(VfioRequests.DeviceFeature, (fd, argument) =>
        {
            Assert.Equal(argument.Length, argument.Read32(0));
            Assert.Equal((uint)operation | (uint)feature, (uint)argument.Read32(4));
            return answer(fd, argument[8..]);
        });

    public static void ExpectLogProbe(this ScriptedKernel kernel, bool hasLog)
    {
        Errno answer = hasLog ? Errno.Success : Errno.ENOTTY;
        kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingStart,
            VfioDeviceFeatureFlags.Probe | VfioDeviceFeatureFlags.Set, (_, _) => answer);
        if (hasLog)
        {
            kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingReport,
                VfioDeviceFeatureFlags.Probe | VfioDeviceFeatureFlags.Get, (_, _) => answer);
        }
    }

    /// <summary>What a device can do; one with PRE_COPY is then asked to tell of new initial bytes.</summary>
    public static void ExpectAbilities(this ScriptedKernel kernel, VfioMigrationFlags abilities)
    {
        kernel.ExpectFeature(VfioDeviceFeatureIndex.Migration, VfioDeviceFeatureFlags.Get, (_, payload) =>
        {
            if (abilities == VfioMigrationFlags.None)
                return Errno.ENOTTY;
            BinaryPrimitives.WriteUInt64LittleEndian(payload, (ulong)abilities);
            return Errno.Success;
        });
        if ((abilities & VfioMigrationFlags.PreCopy) != 0)
        {
            // Kernels before 7.3 do not know the question, and it does not matter.
            kernel.ExpectFeature(
                VfioDeviceFeatureIndex.MigPrecopyInfoV2, VfioDeviceFeatureFlags.Set, (_, _) => Errno.ENOTTY);
        }
    }

    /// <summary>One change of the migration state; the answer's descriptor is -1 unless one is given.</summary>
    public static void ExpectState(
        this ScriptedKernel kernel, VfioDeviceMigState state, Errno errno = Errno.Success, int dataFd = -1) =>
        kernel.ExpectFeature(VfioDeviceFeatureIndex.MigDeviceState, VfioDeviceFeatureFlags.Set, (_, payload) =>
        {
            Assert.Equal(state, (VfioDeviceMigState)payload.Read32(0));
            payload.Write32(4, unchecked((uint)dataFd));
            return errno;
        });

    public static void ExpectReset(this ScriptedKernel kernel, Errno errno = Errno.Success) =>
        kernel.Expect(VfioRequests.DeviceReset, (_, _) => errno);

    public static void ExpectStateRead(this ScriptedKernel kernel, Errno errno, params byte[] bytes) =>
        kernel.ExpectRead((_, framed) =>
        {
            MemoryMarshal.Write(framed, bytes.Length);
            bytes.CopyTo(framed[sizeof(int)..]);
            return errno;
        });

    public static int Read32(this Span<byte> bytes, int offset) =>
        BinaryPrimitives.ReadInt32LittleEndian(bytes[offset..]);

    public static ulong Read64(this Span<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);

    public static Errno Write32(this Span<byte> bytes, int offset, uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[offset..], value);
        return Errno.Success;
    }
}
