"""What is watched, what was shipped, and what changed since: for the flow `watch-releases` and the command line.

- models.py: the lines of models.yaml
- hub.py and listing.py: what the hub has now, by conditional requests, and which files of it count
- records.py: what was shipped and what was tried, in the store
- changes.py: what differs between the two, and what a rebuild would do again
- look.py: all lines at once
- view.py: tables for people
"""
