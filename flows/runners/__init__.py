"""How steps and services are started: one folder for each backend, behind the Protocols Launcher and Services."""
