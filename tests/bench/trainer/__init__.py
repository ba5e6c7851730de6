"""The trainer's figures: `python -m tests.bench.trainer`."""
