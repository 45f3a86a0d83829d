namespace Tidemark.Conformance.Tests;

public sealed class ComparisonTests
{
    private static readonly ConformanceCase Case = ConformanceSuite.Cases[0];

    [Theory]
    [InlineData(ConformanceVerdict.Passed, ConformanceVerdict.Passed, 1, 0)]
    [InlineData(ConformanceVerdict.Failed, ConformanceVerdict.Failed, 1, 0)]
    [InlineData(ConformanceVerdict.Passed, ConformanceVerdict.Failed, 0, 1)]
    [InlineData(ConformanceVerdict.Failed, ConformanceVerdict.Passed, 0, 1)]
    public void What_both_kernels_answer_agrees_or_differs(
        ConformanceVerdict here, ConformanceVerdict there, int agree, int differ)
    {
        ConformanceComparison comparison = Compare(here, there);
        Assert.Equal(agree, comparison.Agree);
        Assert.Equal(differ, comparison.Differences.Count);
        Assert.Empty(comparison.OnlyHere);
        Assert.Empty(comparison.OnlyThere);
    }

    [Fact]
    public void What_one_kernel_can_not_be_asked_is_neither()
    {
        Assert.Equal([Case.Name], Compare(ConformanceVerdict.Passed, ConformanceVerdict.NotApplicable).OnlyHere);
        Assert.Equal([Case.Name], Compare(ConformanceVerdict.NotApplicable, ConformanceVerdict.Failed).OnlyThere);
        ConformanceComparison neither = Compare(ConformanceVerdict.NotApplicable, ConformanceVerdict.NotApplicable);
        Assert.Equal(0, neither.Agree + neither.Differences.Count + neither.OnlyHere.Count + neither.OnlyThere.Count);
    }

    [Fact]
    public void A_case_that_the_other_kernel_never_heard_of_is_told()
    {
        ConformanceComparison comparison = ConformanceComparison.Of(
            [new ConformanceResult(Case, ConformanceVerdict.Passed, null)], []);
        Assert.Equal([Case.Name], comparison.OnlyHere);
    }

    [Fact]
    public void Every_known_difference_names_a_case()
    {
        Assert.Empty(ConformanceComparison.KnownDifferences.Keys.Except(
            ConformanceSuite.Cases.Select(candidate => candidate.Name)));
    }

    private static ConformanceComparison Compare(ConformanceVerdict here, ConformanceVerdict there) =>
        ConformanceComparison.Of(
            [new ConformanceResult(Case, here, "reason")], [new ForeignResult(Case.Name, there, "reason")]);
}
