"""The `carwright` command: a module for each group of its commands."""
