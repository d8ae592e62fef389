"""Have we done this before?"""
