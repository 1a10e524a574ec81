"""One file a scenario; `SCENARIOS` in `bench.cli` names them."""
