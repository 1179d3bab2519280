"""Two suites need a process of their own, see scripts/test_kernels.sh: the interpreter's and the compile gate's."""

import os

collect_ignore_glob = []
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob.append("interpreted/*")
if os.environ.get("EGRC_COMPILE_GATE") != "1":
    collect_ignore_glob.append("compiled/*")
