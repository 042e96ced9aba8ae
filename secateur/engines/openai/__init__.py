"""The engine on any server with an OpenAI-compatible completions endpoint. In: its address and its name of a model.
Out: one stream per trace, closed to stop it.

engine.py is the interface, streams.py keeps the connections, protocol.py reads and writes what goes over them,
checks.py finds out what the server understands and whether it stops when a stream is closed.
"""
