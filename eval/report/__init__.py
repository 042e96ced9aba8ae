"""The report of a combined run: report.html, and what W&B and TensorBoard get of the same table.

Comes in: a run folder with combined.json (secateur.results) and explorer.json (eval.table.explorer), and what
training left. Goes out: one HTML file of a run (page.py), one of several runs or of runs that go on (runs.py), or a
`Publication` (tracking.py).
The page begins with five answers (answer.py), the command to copy (command.py) and one problem (story.py).
To add a section: a reader here, its place in templates/report.html.j2, and the call in page.py.
"""
