"""Needs SGLang's environment and minutes: scripts/test_sglang.sh runs these, nothing is collected otherwise."""

import os

collect_ignore_glob = [] if os.environ.get("EGRC_CONTRACT_SERVER") == "sglang" else ["test_*.py"]
