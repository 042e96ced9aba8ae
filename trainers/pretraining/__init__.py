"""What the embedded model is made of. In: problems and traces of secateur/tasks/arithmetic.py. Out: a tokenizer and
weighted training batches (batches.py), and the figures of a model (evaluation.py).

The training itself is trainers/embedded.py; another corpus is written in secateur/tasks/arithmetic.py.
"""
