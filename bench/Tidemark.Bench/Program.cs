using Tidemark.Bench;

// Measures ratios on this machine: each figure has its yardstick measured beside it, in turns, in the same process.
bool json = args.Contains("--json");
string[] rest = [.. args.Where(argument => argument != "--json")];
return rest switch
{
    ["kernels"] => KernelsBench.Run(json),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("Usage: Tidemark.Bench kernels [--json]");
    Console.Error.WriteLine("  kernels   zero-page test, clean bitmap scan and page hash against plain reading");
    return 64;
}
