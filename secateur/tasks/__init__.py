"""Problems and answers. In: names of sets, JSONL files, texts of models. Out: `Problem` and `Trace` (records.py),
prompts, verdicts.

A new published set is a record in hub_sets.py; every sentence put to a model stands in prompts.py; the embedded game
is arithmetic.py; how two answers compare is answers/equality.py.
"""
