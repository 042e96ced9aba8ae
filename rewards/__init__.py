"""What a completion earns. In: the graded completions of one prompt and the limit. Out: one number each, or None for
one that is not to be trained on; trl_reward.py is the callable that TRL gets.

A new reward is a file with its formula, its options and its `RewardSpec` (completion.py), and a line in
registry.py, where the filters that go with any reward are as well. The formulas are pure functions.
"""
