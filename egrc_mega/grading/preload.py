"""What the fork server imports before it forks graders, so that a child is ready in milliseconds.

The first evaluation of a process builds tables; here it is paid once for all.
"""

import logging

import egrc_mega.grading.compat
import egrc_mega.grading.math  # noqa: F401
from egrc_mega.grading.ladder import judge

logging.disable(logging.CRITICAL)  # math-verify warns that its timeouts are off
judge("\\sin(\\frac{2}{4}) + \\sqrt{x} + \\ln 2", "x^2 + e^{\\pi} - \\binom{n}{2}")
judge("\\int_0^x t dt", "\\frac{x^2}{2}")
judge("[2, \\sqrt{5})", "x > 3")
