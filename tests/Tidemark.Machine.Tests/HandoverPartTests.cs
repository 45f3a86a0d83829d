using Tidemark.Machine.Handover;
using Tidemark.Memory;

namespace Tidemark.Machine.Tests;

/// <summary>The steps of a driver-assisted part, over a driver and a bus master bit that only take notes.</summary>
public sealed class HandoverPartTests
{
    private readonly List<string> _log = [];
    private readonly FakeDriver _driver;
    private readonly FakeBusMaster _busMaster;
    private readonly DriverAssistedMigratable _part;

    public HandoverPartTests()
    {
        _driver = new FakeDriver(_log);
        _busMaster = new FakeBusMaster(_log);
        _part = new DriverAssistedMigratable("nvme0", _driver, _busMaster, TimeSpan.FromSeconds(1));
    }

    [Fact]
    public void The_source_quiesces_halts_and_only_then_gives_its_state()
    {
        var buffer = new byte[2];
        _part.BeginSave();
        Assert.Equal(0, _part.ReadState(buffer));
        _part.EnterP2P();
        Assert.Equal(0, _part.ReadState(buffer));
        Assert.NotNull(_part.FindRunning());
        _part.Stop();
        Assert.Null(_part.FindRunning());
        Assert.Equal(2, _part.ReadState(buffer));
        Assert.Equal(1, _part.ReadState(buffer));
        Assert.Equal(0, _part.ReadState(buffer));
        _part.EndSave();
        Assert.Equal(["quiesce", "halt", "bus master off", "save"], _log);
        Assert.Null(_part.FindRunning());
    }

    [Fact]
    public void A_part_that_was_not_quiesced_is_not_halted()
    {
        _part.BeginSave();
        Assert.Throws<InvariantException>(_part.Stop);
        Assert.Empty(_log);
    }

    [Theory]
    [InlineData("quiesce")]
    [InlineData("halt")]
    [InlineData("bus master off")]
    public void After_a_step_that_fails_the_driver_works_again(string step)
    {
        _driver.Fails = step;
        _busMaster.Fails = step == "bus master off";
        _part.BeginSave();
        Assert.ThrowsAny<Exception>(() =>
        {
            _part.EnterP2P();
            _part.Stop();
        });
        Assert.NotNull(_part.FindRunning());
        _part.Recover();
        Assert.Equal("resume", _log[^1]);
        _part.Recover();
        Assert.Single(_log, "resume");
    }

    [Fact]
    public void A_device_that_gets_its_bus_master_bit_back_is_found()
    {
        _part.BeginSave();
        _part.EnterP2P();
        _part.Stop();
        _busMaster.IsOn = true;
        Assert.Contains("bus master", _part.FindRunning(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_destination_prepares_loads_and_takes_over_after_the_start()
    {
        _part.BeginLoad();
        Assert.Null(_part.FindRunning());
        _part.WriteState([1, 2]);
        _part.WriteState([3]);
        _part.EndLoad();
        Assert.Equal(["prepare", "bus master off", "load 3"], _log);
        _part.Start();
        Assert.Equal("take over", _log[^1]);
        Assert.Throws<InvariantException>(_part.Start);
    }

    [Fact]
    public void A_driver_that_does_not_agree_ends_the_migration_before_it_begins()
    {
        _driver.Obstacle = "It is busy with a firmware update.";
        InvalidOperationException refusal = Assert.Throws<InvalidOperationException>(_part.BeginSave);
        Assert.Equal(_driver.Obstacle, refusal.Message);
    }

    [Fact]
    public void A_state_without_end_is_refused()
    {
        _part.BeginLoad();
        var chunk = new byte[1 << 20];
        Assert.Throws<InvalidDataException>(() =>
        {
            for (int count = 0; count < 64; count++)
                _part.WriteState(chunk);
        });
    }

    [Fact]
    public void A_device_that_failed_during_the_migration_is_not_handed_over()
    {
        _part.BeginSave();
        _driver.Obstacle = "Its controller died.";
        InvalidOperationException refusal = Assert.Throws<InvalidOperationException>(_part.EnterP2P);
        Assert.Equal(_driver.Obstacle, refusal.Message);
    }

    private sealed class FakeDriver(List<string> log) : IHandoverDriver
    {
        public string? Fails { get; set; }

        public string? Obstacle { get; set; }

        public IReadOnlyList<KeyValuePair<string, string>> Identity => [];

        public string? FindObstacle() => Obstacle;

        public void Quiesce(TimeSpan limit) => Do("quiesce");

        public void Halt() => Do("halt");

        public byte[] SaveState()
        {
            Do("save");
            return [1, 2, 3];
        }

        public void Resume() => Do("resume");

        public void Prepare() => Do("prepare");

        public void LoadState(ReadOnlySpan<byte> state) => Do($"load {state.Length}");

        public void TakeOver() => Do("take over");

        private void Do(string step)
        {
            log.Add(step);
            if (Fails == step)
                throw new TimeoutException(step);
        }
    }

    private sealed class FakeBusMaster(List<string> log) : IBusMaster
    {
        public bool Fails { get; set; }

        public bool IsOn { get; set; } = true;

        public void TurnOff()
        {
            log.Add("bus master off");
            if (Fails)
                throw new TimeoutException("bus master off");
            IsOn = false;
        }
    }
}
