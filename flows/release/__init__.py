"""What a run leaves for people: the model card, the provenance, the report and the summary."""
