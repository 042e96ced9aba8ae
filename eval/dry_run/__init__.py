"""What an evaluation would do, need and cost: `dry_run: true`. In: a config, the launch that is meant, models'
config.json, judges' judge.json. Out: tokens, hours, memory and disk on the terminal; nothing is loaded or written.

runs.py plans each command; models.py knows what its models sample, traces.py what that takes on disk, memory.py
whether it fits. A figure is changed there and compared with a real run in tests/eval/test_plan.py.
"""
