"""The ledger in Redis or Valkey: for any number of replicas, and beyond the life of all of them.

- client: connects, by TLS and with credentials that may change
- ledger: what is asked of it
- lua: what it runs, each call in one atomic step
"""
