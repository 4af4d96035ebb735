"""Everything about Prefect but the flows themselves: child runs, following runs, work pools, results and reporting."""
