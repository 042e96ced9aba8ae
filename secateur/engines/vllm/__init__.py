"""The engine on vLLM in this process, for production. In: a model folder or a Hub id. Out: one request per trace and
phase, aborted to park it.

engine.py is the interface, setup.py opens vLLM and refuses early what it cannot do, states.py keeps hidden states in
vLLM's worker. All of it reads vLLM's inside and is written for the series that setup.py names.
"""
