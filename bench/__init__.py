"""How fast, against bare Envoy in the same run: `python -m bench`, or `make bench`.

The way of a figure: `cli` picks `scenarios/*`; a scenario starts upstreams (`native/upstream.c`) or simulated regions,
puts subjects (`envoys`, `chain`, `litellm`) in front of them, loads these with `native/generator.c` (`load`), several
at the same time on one core where CPU is compared (`paired`), and hands back an `Outcome` that `report` prints and
writes. Nothing in the measured way of the data is Python, unless the subject is.
"""
