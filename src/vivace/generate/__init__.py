"""How is a model asked?"""
