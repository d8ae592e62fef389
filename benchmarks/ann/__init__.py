"""Vector indexes side by side: ours as the tuner chooses them, others swept by hand."""

import os

# before numpy is loaded, as its BLAS asks only once: everything here is one thread
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
