"""Steps and services on other machines, as child runs of a deployment."""
