"""Commands that measure: combined.py every method in one table, single.py one model, collect_traces.py traces for
judges, joined.py tables side by side, demo.py everything on the embedded model, and the studies of the paper.

A command is a file here; what serves it is a room: table/, report/, one_model/, studies/, traces/, dry_run/.
"""
