"""Training a judge.

In: a judge's config and trace folders. Out: a judge folder with metrics.json. To add a kind of judge, touch
secateur/deepprune/judges only; to add a baseline or a figure, figures.py; the training loop of all of them is fit.py.
"""
