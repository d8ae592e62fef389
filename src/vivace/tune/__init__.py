"""What should change, and why? Plans, trials, racing, the recall guard."""
