"""Vector indexes side by side: ours as the tuner chooses them, others swept by hand."""
