"""Rounds with tighter and tighter limits. In: the keys of a schedule (config.py). Out: a run folder (state.py) whose
`final/` is the model that was chosen last, with its model card.

run.py carries out what the folder needs next; choice.py chooses and says why, without a file or a process; what is
written and read back are the records of records.py. Nothing here loads a model: launches do.
"""
