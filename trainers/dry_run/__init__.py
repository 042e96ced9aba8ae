"""What a training would do, need and cost: `dry_run: true`. In: a config, the launch that is meant, a model's
config.json. Out: numbers on the terminal; nothing is loaded, trained or written.

memory.py calculates, without torch; report.py plans a schedule, judge.py the training of a judge. A formula is
changed there and compared with a real training in tests/trainers/test_dry_run.py.
"""
