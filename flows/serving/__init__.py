"""How and where models are served to be measured: the plan for the GPUs, and servers that somebody else runs."""
