"""What tenants were granted, and what they used of it: pure, with the time passed in.

- limits: what a tenant was granted
- window, calendar: a sliding minute, and the windows of budgets
- estimate: what a request will use
- terms: how what it used is counted
- usage: what counts, for a tenant's status
- account: what a tenant used, and whether more fits
- frees: when how much will be free
- sharing: how tenants share what a pool can give
- pool: what each tenant took of a pool, and may take now
- granted: what routing tables say of quotas
- asking: what proxies ask, and what they are told
- settling: what the access log tells
- policy: what is known of tenants and models, and what is learned of them
- deciding: whether a request is let in
- counters: where a request is counted, for a store outside
- ledger: admits, settles, and gives back
- admission: all of it together, in one process
"""
