"""What should change, and why?"""
