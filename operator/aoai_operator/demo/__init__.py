"""`aoai-operator demo`: three unequal regions behind one address, broken and mended before your eyes.

- run.py      the composition root: regions, gateway, load, story, in this order, and all of it ended at the end
- site.py     the simulated regions, and the manifests that make a pool of them
- gateway.py  `aoai-operator local` as a child process, as a user would type it
- load.py     the `openai` SDK, without retries of its own, so that nothing is hidden
- story.py    the phases: what is broken when
- facts.py    what was measured: by the SDK, by the regions, by the gateway
- claims.py   what the demo says of itself, each claim checked on the facts
- screen.py   a live table for people, plain lines for pipes, one document for programs
"""

from aoai_operator.demo.run import DemoError, DemoOptions, run_demo

__all__ = ["DemoError", "DemoOptions", "run_demo"]
