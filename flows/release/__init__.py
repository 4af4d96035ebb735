"""The documents of a run: the model card, the statements, the bill of materials, the report and the summary."""
