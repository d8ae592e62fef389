"""Which passages answer?"""
