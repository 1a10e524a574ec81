"""`aoai-operator run`: the operator in Kubernetes.

Every replica watches, and drives the Envoys that are connected to it by what the routing tables say:

    kopf --wake--> Serving: ConfigMaps, Secrets --tables--> Gateways --ADS--> Envoys --access log--> Observer

The holder of the Lease also compiles and writes:

    kopf --wake--> Leading: pools, quotas --World--> compile --> Writer --apply--> ConfigMaps, statuses, Events

So the tables pass through the API server, for the leader's own Envoys as well: whoever serves has read what anybody
can read with kubectl, and goes on with it when the leader, or the API server, is gone.
"""
