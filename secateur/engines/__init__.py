"""Generation that can be stopped, parked and resumed trace by trace. In: token ids of prompts and a `SamplingSpec`.
Out: tokens as they come, and what each trace cost; folders of stored traces.

The interface is base.py; registry.py says what there is to know of each engine and opens it. A new engine keeps the
contract of tests/engines/contract.py and is a line of the registry. Tokens become cost in accounting.py alone.
"""
