"""Steps and services as Jobs of a Kubernetes cluster."""
