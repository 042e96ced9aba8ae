"""The engine on transformers, exact and without other software. In: a model folder, a Hub id or a loaded model. Out:
one token per running trace and step.

engine.py is the interface, batch.py says which trace sits in which row, kv_cache.py keeps keys and values, drawing.py
draws tokens from each trace's own numbers. A change there must leave live run and replay equal token for token.
"""
