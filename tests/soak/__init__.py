"""Many ships in a row by the watcher, with real services that are looked at all the time: `python -m tests.soak --help`."""
