"""Stage `curate`: problems, verified teacher traces and benchmarks."""
