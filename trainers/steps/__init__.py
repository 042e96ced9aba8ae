"""What every training with the Trainer has beside its steps, GRPO and the tuning alike. In: the Trainer's events.

Out: train.jsonl with a progress line (log.py), checkpoints that are whole or are said not to be (checkpoints.py).
"""
