"""What the benchmarks of networks share."""
