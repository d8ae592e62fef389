"""Real servers, cut wires and outages for tests and benchmarks."""
