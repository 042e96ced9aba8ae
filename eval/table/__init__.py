"""The table of eval/combined.py: models × methods × benchmarks × n, replayed on the same stored traces.

In: a `CombinedConfig` (config.py). work.py samples, judges and runs live; assemble.py reads back what store.py keeps;
grid.py replays every method. Out: combined.json and .csv (secateur/results.py), explorer.json for the report.
To add a method: a file with a `Method` (method.py) and a line in registry.py; nothing else knows methods by name.
"""
