"""Steps and services as processes of this machine."""
