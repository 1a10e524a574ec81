"""RoutingTable -> Envoy resources: a pure function, translate().

`translate(tables, secrets, overrides, settings) -> Snapshot`, where
- listeners.py  an HTTP and an HTTPS listener a gateway: who are you (api_key_auth), our one Lua, the router
- extensions.py the filters of the tenants' keys and of our Lua, and what both know of a pool; tokens.py that of tokens
- routes.py     address -> pool -> model -> cluster, with the pool's retries and time-outs
- clusters.py   one cluster for each pool x model: balancing, credentials by endpoint, names rewritten for each attempt
- endpoints.py  one host for each deployment: address, priority, health, incarnation (all that changes by the second)
- secrets.py    the endpoints' keys, and the certificates towards clients, by SDS
- bootstrap.py  the static file an Envoy starts from: where the control plane is
- topology.py   what routes, clusters and endpoints must agree on; headers.py which headers go on to Azure
- lua/          the scripts; luadata.py the data that travels inside them

The snapshot's way to Envoy: packed.py (encoded, with what refers to what), delta.py and stream.py (delta xDS).
"""
