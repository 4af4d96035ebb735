"""The documents of a run: the model card, the provenance, the report and the summary."""
