"""Figures, as ratios beside a peer measured in the same run; not part of `make test`: `make bench`."""
