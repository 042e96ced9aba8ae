"""Many trainings of a judge, one for each cut, loss and seed.

In: a sweep's config and trace folders, collected once at the largest cut. Out: a folder per cell, and sweep.json with
table, CSV and picture. To vary something else, add it to `SweepCell` and `SweepSetting`; figures are in summary.py.
"""
