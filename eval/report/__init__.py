"""The report of a combined run: report.html, and what W&B and TensorBoard get of the same table.

Comes in: a run folder with combined.json (secateur.results) and explorer.json (eval.table.explorer), and what
training left. Goes out: one HTML file (page.py), or a `Publication` (tracking.py).
To add a section: a reader here, its place in templates/report.html.j2, and the call in page.py.
"""
