"""One model at a time, one trace at a time: pass@1 and length, with intervals over problems.

Comes in: a `SingleConfig` and the traces that sampling.py stores. Goes out: `ModelFigures` per model and benchmark
(figures.py), gathered in summary.json and shown by report.py.
To add a figure: a field of `ModelFigures`, its value in `figures_of`, its place in report.py.
"""
