"""Judges: will two cut traces of one problem end in the same answer?

In: cuts of one problem (base.py), judge data (pairs.py), or a judge's folder (folder.py). Out: probabilities of
pairs, what they cost, metrics.json (record.py) and a card. To add a kind: a file here with the judge and what there
is to say of its kind, one in kinds/ for the latter if the judge loads torch, and a line in registry.py.
"""
