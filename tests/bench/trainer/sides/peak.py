"""What this machine's cores multiply at best: products of two 1024 x 1024 matrices, 32-bit, NumPy's BLAS.

A step is one product.
"""

from __future__ import annotations

import time

import numpy as np

from tests.bench.trainer.sides.lap import FIRST_STEPS, WARM_STEPS, serve, task

SIZE = 1024
FLOP = 2 * SIZE**3


def main() -> None:
    task()
    random = np.random.default_rng(1)
    a, b = (random.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)

    def lap(steps: int) -> float:
        for _ in range(WARM_STEPS):
            np.matmul(a, b, out=out)
        begun = time.perf_counter()
        for _ in range(steps):
            np.matmul(a, b, out=out)
        return time.perf_counter() - begun

    lap(FIRST_STEPS)
    serve(f"NumPy {np.__version__}", lap)


if __name__ == "__main__":
    main()
