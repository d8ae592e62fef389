"""python -m benchmarks.cache: see `benchmarks.cache.run`."""

from benchmarks.cache.run import main

main()
