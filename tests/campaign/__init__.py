"""A ship that is killed, hindered and crowded in hundreds of ways; `python -m tests.campaign --help`."""
