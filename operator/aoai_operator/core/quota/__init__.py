"""What tenants were granted, and what they used of it: pure, with the time passed in.

- limits: what a tenant was granted
- window, calendar: a sliding minute, and the windows of budgets
- estimate: what a request will use
- account: what a tenant used, and whether more fits
- sharing: how tenants share what a pool can give
- pool: what each tenant took of a pool, and may take now
- ledger: admits, settles, and gives back
"""
