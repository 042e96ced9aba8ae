"""Judges: will two cut traces of one problem end in the same answer?

In: cuts of one problem (base.py), judge data (pairs.py), or a judge's folder (folder.py). Out: probabilities of
pairs, what they cost, figures (figures.py) and a card. To add a kind: a file in kinds/, the judge itself here, and a
line in registry.py.
"""
