"""What there is to say of each kind of judge, a file for a kind.

In: the keys of a training, judge data, a judge's folder. Out: a `JudgeKind` that registry.py lists. To add a kind,
put a file here, the judge itself into the room above, and a line into registry.py; nothing else knows kinds by name.
"""
