"""What the fork server imports before it forks graders: math-verify, warmed up.

The first comparison of a process costs up to 0.2 s (sympy builds its tables lazily); here it is paid once, so that a
child that replaces a killed one is ready in milliseconds.
"""

import egrc_mega.grading.math  # noqa: F401  the grader that children build
from egrc_mega.grading.verify import judge, silence

silence()
judge("\\frac{2}{4}", "\\frac12")
judge("[2, 5)", "(3, 5)")
judge("50\\%", "0.25")
