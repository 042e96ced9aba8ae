"""Pruned consensus behind OpenAI's HTTP interface: many callers, one engine.

Comes in: a `Pruner` and an `Offer`, which says what a request gets that asks for nothing special. Goes out: a
Starlette application (app.py) with `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`, `/ready`,
`/metrics` and `/dashboard`, run by server.py. A request is read by schema.py, answered by answering.py, written by
replies.py, and counted by watch.py.
To add a field of a request: schema.py, and answering.py where it acts. To add a figure: watch.py, and dashboard.html.
"""
