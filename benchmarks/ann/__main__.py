"""python -m benchmarks.ann: see `benchmarks.ann.run`."""

from __future__ import annotations

import os
from importlib import import_module

# before numpy is loaded, as its BLAS asks only once: everything here is one thread
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import_module("benchmarks.ann.run").main()
