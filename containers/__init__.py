"""The steps of Carwright and the modules they share; nothing in here knows Prefect."""
