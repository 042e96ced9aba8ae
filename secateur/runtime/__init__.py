"""The ground floor: files, configuration, console and rank. Imports nothing of ours and no torch at import time."""
