"""The model card of `final/`. In: the records of a run and what was measured of its model elsewhere (measured.py).
Out: the values of templates/model_card.md and its front matter (content.py).

A sentence of the card is changed in the template, a figure in content.py; what was told stays in card.json
(measured.py). Every value from outside is escaped.
"""
