"""L2 and L3: shared stores of bytes behind the memory of a process."""
