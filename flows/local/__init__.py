"""Runs on one machine: commands that start their own store and Prefect server, and the dry run on a local Docker engine."""
