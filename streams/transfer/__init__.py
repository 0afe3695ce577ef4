"""Migrations of an app's classes: steps in the journal, and objects that are copied from another app.

An owner that begins appends each step of the configuration that its journal does not have yet (`steps.py`).
If a class comes from another app, the data of that app are opened and held (`foreign_app.py`), its objects
are read as entries (`export_objects.py`), and the entries are appended to the journal in front of the step
(`import_objects.py`).

Laws
- Each step is in the journal once, in the configuration's order, before its partition serves.
  [test_migrations.py]
- A transfer copies. The other app keeps its objects, and they are not written while they are read.
"""
