"""The Kubernetes API server: what the operator reads, watches, writes, and how its replicas agree on a leader."""
