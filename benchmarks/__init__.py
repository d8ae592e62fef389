"""Measurements: each prints machine, commit and settings, and pairs what it compares."""
