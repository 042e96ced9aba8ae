"""The ground floor: files, records, configuration, console, processes, pictures, the Hub, tracking. In: nothing
of ours. Out: what every other room stands on; no torch is loaded at import time.

Errors that the user can mend are `InputError` (errors.py); typed files go through records.py; rank numbers are known
in process.py alone. What only one room needs does not belong here.
"""
