using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Viommu;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>The machine's own IOMMU: modes, a guest's numbers, and a state from anywhere.</summary>
public sealed class GuestIommuTests : IDisposable
{
    private const ulong MiB = 1UL << 20;

    private readonly SoftRig _rig = new();
    private readonly Iommufd _iommufd;
    private readonly IommufdContainer _container;

    public GuestIommuTests()
    {
        _iommufd = _rig.OpenIommufd();
        _container = IommufdContainer.Create(_iommufd);
    }

    public void Dispose()
    {
        _container.Dispose();
        _iommufd.Dispose();
        _rig.Dispose();
    }

    [Fact]
    public void A_mode_is_what_the_device_reaches()
    {
        GuestIommuEndpoint endpoint = Add(new GuestIommu());
        Assert.Equal(EndpointMode.Blocked, endpoint.Mode);
        Assert.Empty(_container.Areas);
        Assert.Equal(Errno.EINVAL, Refuse(endpoint, 0, 0, MiB));

        endpoint.SetMode(EndpointMode.PassThrough);
        Assert.Equal(SoftRig.MemoryLength, Assert.Single(_container.Areas).Range.ByteLength);
        Assert.Equal(Errno.EINVAL, Refuse(endpoint, 1UL << 33, 0, MiB));

        endpoint.SetMode(EndpointMode.Translated);
        Assert.Empty(_container.Areas);
        endpoint.Map(new Iova(1UL << 33), new GuestPhysicalAddress(MiB), MiB);
        Assert.Equal(new GuestPhysicalAddress(MiB), Assert.Single(_container.Areas).Guest);

        endpoint.SetMode(EndpointMode.Blocked);
        Assert.Empty(_container.Areas);
        Assert.Empty(endpoint.Mappings);
    }

    [Theory]
    [InlineData(3u)]
    [InlineData(uint.MaxValue)]
    public void A_mode_that_there_is_not_is_refused_and_nothing_changed(uint mode)
    {
        GuestIommuEndpoint endpoint = AddTranslated(new GuestIommu());
        endpoint.Map(new Iova(0), new GuestPhysicalAddress(0), MiB);
        Assert.Equal(Errno.EINVAL, Assert.Throws<KernelException>(() => endpoint.SetMode((EndpointMode)mode)).Errno);
        Assert.Equal(EndpointMode.Translated, endpoint.Mode);
        Assert.Single(_container.Areas);
    }

    [Theory]
    [InlineData(0UL, 0UL, 0UL)]
    [InlineData(1UL, 0UL, 4096UL)]
    [InlineData(0UL, 1UL, 4096UL)]
    [InlineData(0UL, 0UL, 4095UL)]
    [InlineData(0UL, SoftRig.MemoryLength, 4096UL)]
    [InlineData(0UL, SoftRig.MemoryLength - 4096, 8192UL)]
    [InlineData(0UL, 0UL, 0xffff_ffff_ffff_f000UL)]
    [InlineData(0UL, 0xffff_ffff_ffff_f000UL, 4096UL)]
    [InlineData(0UL, 0xffff_ffff_ffff_f000UL, 0x2000UL)]
    [InlineData(0xffff_ffff_ffff_f000UL, 0UL, 0x2000UL)]
    [InlineData(0xffff_ffff_ffff_0000UL, 0UL, 0x100_0000UL)]
    public void Numbers_of_a_guest_that_make_no_mapping_are_one_refusal(ulong iova, ulong guest, ulong length)
    {
        GuestIommuEndpoint endpoint = AddTranslated(new GuestIommu());
        Refuse(endpoint, iova, guest, length);
        Assert.Empty(endpoint.Mappings);
        Assert.Empty(_container.Areas);
    }

    [Theory]
    [InlineData(Backend.Iommufd)]
    [InlineData(Backend.Legacy)]
    public void Whatever_a_guest_says_the_list_is_what_is_mapped(Backend backend)
    {
        var random = new Random(20261122);
        ulong[] numbers = [0, 1, 4095, 4096, 8192, MiB, 8 * MiB, 1UL << 32, 1UL << 47, 1UL << 63, ulong.MaxValue,
            0xffff_ffff_ffff_f000, 0xfee0_0000];
        ulong Number() => random.Next(3) == 0
            ? numbers[random.Next(numbers.Length)]
            : (ulong)random.NextInt64(0, 1L << random.Next(12, 63)) & (random.Next(4) == 0 ? ulong.MaxValue : ~0xfffUL);
        using DmaContainer container = backend == Backend.Legacy
            ? LegacyContainer.Create(_rig.Faults)
            : IommufdContainer.Create(_iommufd);
        using AssignedAlone alone = AssignAlone(container);
        GuestIommuEndpoint endpoint = alone.Endpoint;
        int made = 0;
        for (int round = 0; round < 4000; round++)
        {
            try
            {
                int choice = random.Next(20);
                if (choice == 0)
                    endpoint.SetMode((EndpointMode)random.Next(4));
                else if (choice < 8)
                    endpoint.Unmap(random.Next(2) == 0 && endpoint.Mappings.Count > 0 ? endpoint.Mappings[0].Iova : new Iova(Number()));
                else
                    endpoint.Map(new Iova(Number()), new GuestPhysicalAddress(Number() % (9 * MiB)), Number() % (2 * MiB));
                made++;
            }
            catch (KernelException)
            {
                // The one answer there is.
            }

            if (endpoint.Mode == EndpointMode.Translated)
            {
                Assert.Equal(endpoint.Mappings.Select(mapping => (mapping.Iova, mapping.Guest, mapping.ByteLength)),
                    alone.Container.Areas.Select(area => (area.Range.First, area.Guest!.Value, area.Range.ByteLength)));
            }
        }

        Assert.True(made > 400, $"Only {made} of a guest's wishes were granted; the test shows nothing.");
    }

    [Fact]
    public void A_guest_that_maps_without_end_is_stopped_before_its_state_is_too_long_to_move()
    {
        var endpoint = new GuestIommuEndpoint("nvme1", _container, _rig.Memory, _rig.MemoryFile) { MaximumMappings = 3 };
        endpoint.SetMode(EndpointMode.Translated);
        for (ulong at = 0; at < 3; at++)
            endpoint.Map(new Iova(at * MiB), new GuestPhysicalAddress(0), MiB);
        Assert.Equal(Errno.ENOSPC, Refuse(endpoint, 5 * MiB, 0, MiB));
        endpoint.Unmap(new Iova(0));
        endpoint.Map(new Iova(5 * MiB), new GuestPhysicalAddress(0), MiB);
    }

    [Fact]
    public void When_the_host_refuses_half_way_the_list_is_what_is_left()
    {
        GuestIommuEndpoint endpoint = AddTranslated(new GuestIommu());
        for (ulong at = 0; at < 3; at++)
            endpoint.Map(new Iova(at * MiB), new GuestPhysicalAddress(0), MiB);
        _rig.Faults.FailNth(2, Errno.EBUSY);
        Assert.Throws<KernelException>(() => endpoint.SetMode(EndpointMode.Blocked));
        Assert.Equal(EndpointMode.Translated, endpoint.Mode);
        Assert.Equal([MiB, 2 * MiB], endpoint.Mappings.Select(mapping => mapping.Iova.Value));
        Assert.Equal(2, _container.Areas.Count);
        endpoint.SetMode(EndpointMode.Blocked);
        Assert.Empty(_container.Areas);
    }

    [Fact]
    public void Its_mappings_move()
    {
        GuestIommu source = Fill();
        byte[] state = Save(source);
        GuestIommuEndpoint destination = Load(state, out IommufdContainer container);
        Assert.Equal(source.Endpoints[0].Mappings, destination.Mappings);
        Assert.Equal(EndpointMode.Translated, destination.Mode);
        Assert.Equal(3, container.Areas.Count);
        Assert.Equal((ulong)state.Length, source.Estimate().StopBytes);
        container.Dispose();
    }

    [Fact]
    public void There_is_no_state_before_the_stop_and_again_none_after_a_recovery()
    {
        GuestIommu source = Fill();
        var buffer = new byte[16];
        source.BeginSave();
        Assert.Equal(0, source.ReadState(buffer));
        source.EnterP2P();
        source.Stop();
        Assert.Equal(16, source.ReadState(buffer));
        source.Recover();
        Assert.Equal(0, source.ReadState(buffer));
        Assert.Equal(Save(source), Save(source));
    }

    [Fact]
    public void A_state_that_is_damaged_anywhere_is_refused_or_is_another_state_and_costs_no_more_memory()
    {
        byte[] good = Save(Fill());
        int refused = 0;
        for (int at = 0; at < good.Length; at++)
        {
            foreach (byte damage in (byte[])[0x01, 0x80, 0xff])
            {
                byte[] bad = [.. good];
                bad[at] ^= damage;
                refused += TryLoad(bad) ? 0 : 1;
            }
        }

        for (int length = 0; length < good.Length; length++)
            Assert.False(TryLoad(good[..length]), $"A state cut to {length} bytes was taken.");
        Assert.False(TryLoad([.. good, 0]), "A state with a byte behind it was taken.");
        Assert.True(refused > good.Length, $"Only {refused} damaged states were refused.");
    }

    [Fact]
    public void A_state_of_any_bytes_is_refused()
    {
        var random = new Random(20261122);
        byte[] good = Save(Fill());
        for (int round = 0; round < 500; round++)
        {
            var bytes = new byte[random.Next(0, 300)];
            random.NextBytes(bytes);
            // The head right, so that more than the first check is reached.
            good.AsSpan(0, Math.Min(bytes.Length, random.Next(0, 24))).CopyTo(bytes);
            TryLoad(bytes);
        }
    }

    [Fact]
    public void A_state_that_promises_more_mappings_than_there_can_be_is_refused_at_its_count()
    {
        // Behind mark, version, number of endpoints and the first endpoint's mode.
        const int CountAt = 14;
        byte[] state = Save(Fill());
        BinaryPrimitives.WriteUInt32LittleEndian(state.AsSpan(CountAt), 65536);
        Assert.False(TryLoad(state));
        BinaryPrimitives.WriteUInt32LittleEndian(state.AsSpan(CountAt), uint.MaxValue);
        Assert.False(TryLoad(state));
    }

    [Fact]
    public void A_state_without_end_is_refused_while_it_arrives()
    {
        var viommu = new GuestIommu();
        Add(viommu);
        viommu.BeginLoad();
        var chunk = new byte[1 << 16];
        Assert.Throws<InvalidDataException>(() =>
        {
            for (int count = 0; count < 64; count++)
                viommu.WriteState(chunk);
        });
    }

    [Theory]
    [InlineData(Backend.Iommufd, 1)]
    [InlineData(Backend.Iommufd, 2)]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Legacy, 1)]
    [InlineData(Backend.Legacy, 2)]
    public void What_was_written_is_kept_when_the_guest_unmaps_it_or_changes_the_mode(Backend backend, int number)
    {
        using var scene = new TrackedScene(_rig, backend, [number], viommu: true);
        scene.MapWindow();
        scene.Harvest();
        scene.Write(number, TrackedScene.WindowIova(9) >> GuestPage.Shift);
        scene.UnmapWindow();
        Assert.Contains(TrackedScene.WindowPage + 9, scene.Harvest());
        scene.Write(number, TrackedScene.FirstPage);
        scene.Endpoint!.SetMode(EndpointMode.Blocked);
        Assert.Contains(TrackedScene.FirstPage, scene.Harvest());
        Assert.Empty(scene.Harvest());
    }

    [Fact]
    public void An_address_that_is_used_for_other_memory_marks_the_memory_it_showed_at_the_time()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1], viommu: true);
        ulong iova = TrackedScene.WindowIova(0);
        scene.Harvest();
        for (ulong page = 0; page < 8; page++)
        {
            scene.Map(iova, TrackedScene.WindowStart + (page << GuestPage.Shift), GuestPage.Size);
            scene.Write(1, iova >> GuestPage.Shift);
            scene.Endpoint!.Unmap(new Iova(iova));
        }

        HashSet<ulong> seen = scene.Harvest();
        for (ulong page = 0; page < 8; page++)
            Assert.Contains(TrackedScene.WindowPage + page, seen);
        Assert.Equal(9, seen.Count);
    }

    private static Errno Refuse(GuestIommuEndpoint endpoint, ulong iova, ulong guest, ulong length) =>
        Assert.Throws<KernelException>(
            () => endpoint.Map(new Iova(iova), new GuestPhysicalAddress(guest), length)).Errno;

    private static byte[] Save(GuestIommu viommu)
    {
        viommu.BeginSave();
        viommu.Stop();
        using var stream = new MemoryStream();
        var buffer = new byte[7];
        int count;
        while ((count = viommu.ReadState(buffer)) > 0)
            stream.Write(buffer, 0, count);
        viommu.EndSave();
        viommu.Recover();
        return stream.ToArray();
    }

    private GuestIommuEndpoint Add(GuestIommu viommu) => viommu.Add("nvme1", _container, _rig.Memory, _rig.MemoryFile);

    private GuestIommuEndpoint AddTranslated(GuestIommu viommu)
    {
        GuestIommuEndpoint endpoint = Add(viommu);
        endpoint.SetMode(EndpointMode.Translated);
        return endpoint;
    }

    private GuestIommu Fill()
    {
        var viommu = new GuestIommu();
        GuestIommuEndpoint endpoint = AddTranslated(viommu);
        endpoint.Map(new Iova(1UL << 33), new GuestPhysicalAddress(0), MiB);
        endpoint.Map(new Iova(0), new GuestPhysicalAddress(2 * MiB), 4096);
        endpoint.Map(new Iova(1UL << 40), new GuestPhysicalAddress(4 * MiB), 2 * MiB);
        return viommu;
    }

    private GuestIommuEndpoint Load(byte[] state, out IommufdContainer container)
    {
        container = IommufdContainer.Create(_iommufd);
        var viommu = new GuestIommu();
        try
        {
            GuestIommuEndpoint endpoint = viommu.Add("nvme1", container, _rig.Memory, _rig.MemoryFile);
            viommu.BeginLoad();
            viommu.WriteState(state);
            viommu.EndLoad();
            return endpoint;
        }
        catch
        {
            container.Dispose();
            throw;
        }
    }

    /// <returns>Whether it was taken; the two exceptions that there may be are a refusal.</returns>
    private bool TryLoad(byte[] state)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        bool isTaken = true;
        try
        {
            Load(state, out IommufdContainer container);
            container.Dispose();
        }
        catch (Exception failure) when (failure is InvalidDataException or KernelException)
        {
            isTaken = false;
        }

        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1L << 20);
        return isTaken;
    }

    private AssignedAlone AssignAlone(DmaContainer container)
    {
        // A device before the container, so that its IOMMU has a say in what is mapped.
        VfioDevice device = container.Open(_rig.Soft.Sysfs, VfioDiscovery.GetPciFolder("0000:01:00.0"), "nvme1");
        container.Attach(device);
        GuestIommuEndpoint endpoint = new GuestIommu().Add("nvme1", container, _rig.Memory, _rig.MemoryFile);
        endpoint.SetMode(EndpointMode.Translated);
        return new AssignedAlone(device, container, endpoint);
    }

    private sealed record AssignedAlone(VfioDevice Device, DmaContainer Container, GuestIommuEndpoint Endpoint) : IDisposable
    {
        public void Dispose()
        {
            Container.Detach(Device);
            Device.Dispose();
        }
    }
}
