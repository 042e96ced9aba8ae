"""Validation of a round and what is shown of its choice. In: checkpoints, and the settings of eval/single.py. Out:
the candidates with their figures (sampling.py), as far as they race (racing.py); tables, a picture and entries for
W&B (report.py). Also which training problems are worth a round (screening.py).

The choice itself is made in schedules/choice.py.
"""
