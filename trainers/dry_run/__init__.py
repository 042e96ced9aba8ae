"""What a training would do, need and cost: `dry_run: true`. In: a config, the launch that is meant, a model's
config.json. Out: numbers on the terminal; nothing is loaded, trained or written.

memory.py and rounds.py calculate, without torch; report.py prints the plan of a schedule, judge.py that of a judge. A
formula is changed there and compared with a real training in tests/trainers/test_dry_run.py.
"""
