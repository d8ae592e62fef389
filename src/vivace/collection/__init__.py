"""What is here and findable now? The store with its indexes, and how documents get in."""
