"""Final answers. In: texts of models and gold answers. Out: the answer of a text (extraction.py), whether answers are
equal or right and which belong together (equality.py).

What an answer means is decided in reading.py, with the parts of choices.py, numbers.py, quantities.py, relations.py
and algebra.py; a change there raises `RULES_VERSION` in equality.py. pool.py and worker.py only keep hostile
text at bay.
"""
