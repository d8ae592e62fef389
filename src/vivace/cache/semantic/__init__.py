"""Has this been asked before, in other words?"""
