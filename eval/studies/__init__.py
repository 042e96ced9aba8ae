"""Studies of traces that are stored already: each asks one question and leaves its figures as JSON, CSV and picture.

Comes in: trace folders and files (traces.py), or a combined run (rule_sweep.py). Goes out: a typed record per study,
written and read in its file.
To add one: a file here with its record, measuring, table and picture; its keys and `main` in a file of eval/.
"""
