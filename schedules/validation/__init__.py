"""Validation of a round and what is shown of its choice. In: checkpoints, and the settings of eval/single.py. Out:
the candidates with their figures (sampling.py), tables and a picture (report.py), entries for W&B
(tracking.py).

The choice itself is made in schedules/choice.py.
"""
