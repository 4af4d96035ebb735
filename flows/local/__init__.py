"""One command that brings its own store and Prefect server, and the dry run on a local Docker engine."""
