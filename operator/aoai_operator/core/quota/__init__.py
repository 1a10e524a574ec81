"""What tenants were granted, and what they used of it: pure, with the time passed in.

window    a sliding minute
calendar  the windows of budgets
limits    what a tenant was granted
ledger    admits, settles, and gives back
"""
