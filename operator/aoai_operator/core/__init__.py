"""The pure core: no clock, no event loop, no network. The way of the data, in the order of the files:

- api/            what users write: models of both kinds, parse(raw) -> a resource, or what is wrong with it
- world.py        World: resources, what they refer to, what was observed; the only input of a compilation
- compiler.py     compile_world(World) -> routing tables, statuses, findings; by tenants.py, tables.py, status.py, of
                  which each looks at what is new alone (news.py)
- table.py        RoutingTable: all that proxies need of a pool, without a secret
- envoy/          translate(tables, secrets, overrides, settings) -> Snapshot: all Envoy resources of a gateway
- accesslog.py    what Envoy writes of each request, and what it means
- observations.py probes, failed attempts and time -> the state of every host; by health.py, throttle.py, failures.py
- quota/          what tenants were granted and used: a ledger, which nothing asks yet
- quarantine.py   which version of a pool to publish when an Envoy refuses one
"""
