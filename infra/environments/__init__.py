"""The virtual environments that steps run in when they do not run in containers."""
