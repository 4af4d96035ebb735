"""Prefect beyond the flows themselves: child runs, following runs, work pools, results and reporting."""
