"""The formats of perdure: records on the log, messages on the wire, errors, and configuration.

`commands.py`, `journal.py` and `replies.py` define the records of the topics. `errors.py` is the tree of all
errors, and `config_model.py` is what `perdure.toml` may contain.

Law: values only. Nothing here does I/O, and no module imports another room.
"""
