using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

/// <summary>
/// Every pair of states, for every set of abilities, against full paths written down independently of the table of
/// hops.
/// </summary>
public sealed class MigrationPathTests
{
    private const string Basic = """
        from RUN      STOP  SC       RES
        RUN  =        STOP  STOP>SC  STOP>RES
        STOP RUN      =     SC       RES
        SC   STOP>RUN STOP  =        STOP>RES
        RES  STOP>RUN STOP  STOP>SC  =
        """;

    private const string WithP2P = """
        from RUN           RP2P      STOP      SC           RES
        RUN  =             RP2P      RP2P>STOP RP2P>STOP>SC RP2P>STOP>RES
        RP2P RUN           =         STOP      STOP>SC      STOP>RES
        STOP RP2P>RUN      RP2P      =         SC           RES
        SC   STOP>RP2P>RUN STOP>RP2P STOP      =            STOP>RES
        RES  STOP>RP2P>RUN STOP>RP2P STOP      STOP>SC      =
        """;

    private const string WithPreCopy = """
        from RUN      PC          STOP     SC      RES
        RUN  =        PC          STOP     STOP>SC STOP>RES
        PC   RUN      =           RUN>STOP SC      RUN>STOP>RES
        STOP RUN      RUN>PC      =        SC      RES
        SC   STOP>RUN EINVAL      STOP     =       STOP>RES
        RES  STOP>RUN STOP>RUN>PC STOP     STOP>SC =
        """;

    private const string WithAll = """
        from  RUN           RP2P      PC               PCP2P           STOP          SC           RES
        RUN   =             RP2P      PC               RP2P>PCP2P      RP2P>STOP     RP2P>STOP>SC RP2P>STOP>RES
        RP2P  RUN           =         RUN>PC           PCP2P           STOP          STOP>SC      STOP>RES
        PC    RUN           RUN>RP2P  =                PCP2P           RUN>RP2P>STOP PCP2P>SC     RUN>RP2P>STOP>RES
        PCP2P RP2P>RUN      RP2P      PC               =               RP2P>STOP     SC           RP2P>STOP>RES
        STOP  RP2P>RUN      RP2P      RP2P>RUN>PC      RP2P>PCP2P      =             SC           RES
        SC    STOP>RP2P>RUN STOP>RP2P EINVAL           EINVAL          STOP          =            STOP>RES
        RES   STOP>RP2P>RUN STOP>RP2P STOP>RP2P>RUN>PC STOP>RP2P>PCP2P STOP          STOP>SC      =
        """;

    private static readonly Dictionary<string, VfioDeviceMigState> States = new()
    {
        ["ERROR"] = VfioDeviceMigState.Error,
        ["STOP"] = VfioDeviceMigState.Stop,
        ["RUN"] = VfioDeviceMigState.Running,
        ["SC"] = VfioDeviceMigState.StopCopy,
        ["RES"] = VfioDeviceMigState.Resuming,
        ["RP2P"] = VfioDeviceMigState.RunningP2P,
        ["PC"] = VfioDeviceMigState.PreCopy,
        ["PCP2P"] = VfioDeviceMigState.PreCopyP2P,
    };

    /// <summary>What each arc makes the model do, and whether it opens a stream.</summary>
    private static readonly Dictionary<string, string> Arcs = new()
    {
        ["RUN>RP2P"] = "Quiesce",
        ["RP2P>RUN"] = "Run",
        ["RP2P>STOP"] = "Freeze",
        ["STOP>RP2P"] = "Unfreeze",
        ["RUN>STOP"] = "Quiesce,Freeze",
        ["STOP>RUN"] = "Unfreeze,Run",
        ["STOP>SC"] = "SaveFinal,open",
        ["SC>STOP"] = "",
        ["STOP>RES"] = "open",
        ["RES>STOP"] = "Load ",
        ["RUN>PC"] = "SaveInitial,open",
        ["RP2P>PCP2P"] = "SaveInitial,open",
        ["PC>RUN"] = "",
        ["PCP2P>RP2P"] = "",
        ["PC>PCP2P"] = "Quiesce",
        ["PCP2P>PC"] = "Run",
        ["PC>SC"] = "Quiesce,Freeze,SaveFinal",
        ["PCP2P>SC"] = "Freeze,SaveFinal",
    };

    public static TheoryData<int, string> Tables => new()
    {
        { 1, Basic },
        { 3, WithP2P },
        { 5, WithPreCopy },
        { 7, WithAll },
    };

    [Theory]
    [MemberData(nameof(Tables))]
    public void Every_pair_of_states_takes_the_arcs_of_the_table(int flags, string table)
    {
        int pairs = 0;
        string[] lines = table.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        string[] columns = Cells(lines[0]);
        foreach (string line in lines[1..])
        {
            string[] cells = Cells(line);
            foreach (string target in States.Keys)
            {
                int column = Array.IndexOf(columns, target);
                Check((VfioMigrationFlags)flags, cells[0], target, column < 0 ? "EINVAL" : cells[column]);
                pairs++;
            }
        }

        Assert.Equal((lines.Length - 1) * 8, pairs);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(8u)]
    [InlineData(0xFFFF_FFFFu)]
    public void A_state_that_is_none_is_refused(uint state)
    {
        var fixture = new DeviceFixture();
        Assert.Equal((Errno.EINVAL, -1), fixture.SetState((VfioDeviceMigState)state));
        Assert.Equal(VfioDeviceMigState.Running, fixture.State);
    }

    private static string[] Cells(string line) =>
        line.Split([' ', '\r'], StringSplitOptions.RemoveEmptyEntries);

    private static void Check(VfioMigrationFlags flags, string from, string target, string path)
    {
        string pair = $"flags {(int)flags}, {from} to {target}";
        var fixture = new DeviceFixture(flags);
        Assert.Equal(Errno.Success, fixture.SetState(States[from]).Errno);
        Assert.True(fixture.State == States[from], pair);
        fixture.Model.Calls.Clear();

        (Errno errno, int dataFd) = fixture.SetState(States[target]);

        var expected = new List<string>();
        bool opens = false;
        string at = from;
        foreach (string hop in path is "=" or "EINVAL" ? [] : path.Split('>'))
        {
            string[] effects = Arcs[$"{at}>{hop}"].Split(',', StringSplitOptions.RemoveEmptyEntries);
            opens = effects.Contains("open");
            expected.AddRange(effects.Where(effect => effect != "open"));
            at = hop;
        }

        Assert.True(errno == (path == "EINVAL" ? Errno.EINVAL : Errno.Success), $"{pair}: {errno}");
        Assert.True(expected.SequenceEqual(fixture.Model.Calls),
            $"{pair}: {string.Join(' ', fixture.Model.Calls)} instead of {string.Join(' ', expected)}");
        Assert.True(fixture.State == States[at], $"{pair}: in {fixture.State}");
        Assert.True(opens == (dataFd >= 0), $"{pair}: data_fd {dataFd}");
        Assert.True(opens || dataFd == -1, pair);
    }
}
