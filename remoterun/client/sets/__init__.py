"""Sets of runs: from values of parameters to one run for each combination."""
