"""Steps and services as containers of a Docker engine."""
