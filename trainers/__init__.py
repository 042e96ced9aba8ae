"""Commands that train: grpo_len.py a round of length pruning, judge.py and judge_sweep.py judges, scorer.py scorers,
embedded.py the model that the project ships.

The only folder that knows TRL's trainers. What a command does is in the room beside it; dry_run/ says what it would.
"""
