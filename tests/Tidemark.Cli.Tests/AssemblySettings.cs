// Each test starts processes of its own; in parallel they would only fight for the processors.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
