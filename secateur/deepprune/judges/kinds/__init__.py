"""What there is to say of the kinds of judge that have weights, a file for a kind; none of them loads torch.

In: the keys of a training, judge data, a judge's folder. Out: a `JudgeKind` that registry.py lists. The judge itself,
which does load torch, is in the room above under the same name. A kind without weights says all of it in the judge's
own file. To add a kind, write such a file and a line in registry.py; nothing else knows kinds by name.
"""
