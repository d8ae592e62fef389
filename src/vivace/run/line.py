"""Who waits, and who is next? A short bounded line, in order of urgency and fair between users."""
