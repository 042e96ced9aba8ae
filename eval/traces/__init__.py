"""Traces: where their problems come from, how they are sampled, and how those made elsewhere are taken over.

Comes in: sources of problems (benchmarks.py), models through an engine, files of traces (foreign.py). Goes out: trace
folders (secateur.engines.trace_folder).
To add a key of every command that samples: `SamplingKeys` in sampling.py.
"""
