"""Watching models for changes since they were shipped: for the flow `watch-releases` and the command line.

- models.py: the entries of models.yaml
- hub.py, listing.py: the current state of the hub, by conditional requests, and which files matter
- records.py: what was shipped and attempted, kept in the store
- scan.py: the state of every watched model
- changes.py: the differences, and which steps a rebuild runs again
- decide.py: whether a change is announced
- outcome.py: what a run records for the next scan
- package_index.py: newer versions of the locked tools
- view.py: tables and JSON for the command line
"""
