"""Which vectors, which terms are near? Everything here is derived from the store."""
