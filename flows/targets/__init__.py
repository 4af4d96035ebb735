"""Where a modelcar can be deployed: one description, one module for each target, always by digest."""
