"""Answers that want to run, open, import, hang or fill the memory: wrong, with nothing done and the pool whole."""

import subprocess
import sys
import textwrap

import psutil

from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.worker import Budget
from egrc_mega.types import NO_HINTS, Grade

NEST = 400
HOSTILE = [
    "__import__('os').system('touch /tmp/graded')", "().__class__.__bases__[0].__subclasses__()", "eval('4')",
    "exec('x=4')", "open('/etc/passwd').read()", "lambda: 4", "\\immediate\\write18{true}", "\\input{/etc/passwd}",
    "\\def\\x{\\x\\x}\\x", "\\newcommand{\\a}{4}\\a", "\\csname input\\endcsname", "os.system('true')", "import os",
    "breakpoint()", "%s%s%s%n", "{{7*7}}", "${jndi:ldap://x}", "'; drop table golds; --", "\x00\x01\x02", "😀4",
    "9^{9^{9^9}}", "9^{9^{9^{9^{9^9}}}}", "(10^7)!", "(10^{10})!", "((10^9)!)!", "10^{10^{10^{10}}}",
    "10^{-10^{10^{10}}}", "\\binom{10^9}{5\\cdot 10^8}", "\\binom{10^{100}}{10^{99}}", "2^{2^{2^{2^{2^2}}}}",
    "\\sum_{k=1}^{10^9} k^k", "\\prod_{k=1}^{10^{12}} k", "\\sum_{i=1}^{1999}\\sum_{j=1}^{1999} ij",
    "\\sum_{i=1}^{1999}\\sum_{j=1}^{1999}\\sum_{k=1}^{1999} i^{jk}", "(a+b+c+d+e+f+g)^{50}", "(x+y+z)^{10000}",
    "\\int_0^{10^9} e^{e^{e^x}} dx", "\\sin(10^{10^9})", "\\sin(\\sin(\\sin(10^{10^{10}})))", "e^{e^{e^{e^{e^e}}}}",
    "\\exp(\\exp(\\exp(\\exp(100))))", "\\log(\\log(\\log(10^{10^{10}})))", "\\sqrt[10^{10}]{2}",
    "\\gcd(10^{99999}, 6)",
    "\\lfloor 10^{10^{10}} \\pi \\rfloor",
    "\\left(\\frac{10^{9}}{10^{9}+1}\\right)^{10^{18}}", "1/0", "0^0/0",
    "\\tan(\\frac{\\pi}{2})", "\\ln 0", "(-1)!", "\\infty-\\infty", "0.\\overline{" + "9" * 900 + "}",
    "9" * 1000, "9" * 1_000_000, "(" * NEST + "4" + ")" * NEST, "{" * NEST + "4" + "}" * NEST,
    "\\frac{1}{" * 150 + "4" + "}" * 150, "(1+" * 250 + "1" + ")" * 250, "-" * 999, "\\\\" * 499, "\\sqrt{" * 160,
    "2^" * 400 + "2", "\\begin{pmatrix}" * 60,
]  # fmt: skip
GOLDS = ("4", "x^2+1", "\\sqrt{5}")

AUDITED = """
    import sys
    from egrc_mega.grading.preload import judge
    events = []
    armed = False

    def hook(event, arguments):
        if armed and event.partition(".")[0] in (
            "exec", "compile", "open", "import", "os", "subprocess", "socket", "shutil", "ctypes", "code", "builtins",
            "marshal", "pickle", "urllib", "mmap", "tempfile", "glob",
        ):
            events.append((event, repr(arguments)[:200]))

    sys.addaudithook(hook)
    hostile = eval(sys.stdin.read())
    armed = True
    for answer in hostile:
        for gold in ("4", "x^2+1", "\\\\sqrt{5}", "1,2", "[1,2)", "\\\\text{red}"):
            if judge(answer, gold).grade.value != "wrong":
                raise SystemExit(f"{answer!r} for {gold!r} is not wrong")
    armed = False
    print(events)
"""


def test_no_answer_executes_opens_or_imports_anything() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AUDITED)],
        input=repr(HOSTILE),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_sixty_four_hostile_answers_are_wrong_and_leave_the_pool_whole() -> None:
    assert len(HOSTILE) >= 64
    with GraderPool(2, Budget(cpu_s=0.4, timeout_s=600.0)) as pool:
        verdicts = pool.grade([(answer, gold, NO_HINTS) for answer in HOSTILE for gold in GOLDS])
        assert {verdict.grade for verdict in verdicts} == {Grade.WRONG}
        after = pool.grade([("\\frac{1}{\\sqrt5}", "\\frac{\\sqrt5}{5}", NO_HINTS), ("\\sqrt6", "\\sqrt5", NO_HINTS)])
        assert [verdict.grade for verdict in after] == [Grade.RIGHT, Grade.WRONG]
        processes = [psutil.Process(worker.process.pid) for worker in pool._workers]
        assert len(processes) == 2
        assert max(process.memory_info().rss for process in processes) < 400 * 2**20
