"""What is true? Documents, chunks with their vectors, and the questions asked, in one SQLite file.

Every index is derived from here and can be deleted.
"""
