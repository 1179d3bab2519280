"""Graders of published work, for comparing with its figures: stricter or laxer than `math`, and on purpose.

Sources: DeepScaleR's `rewards/math_utils` and Thinkless' evaluation. Both ask sympy for the difference of two
expressions, by evaluating the answer as a program; here the ladder's own evaluation does that.
"""

import re
from typing import Literal

from egrc_mega.grading.extract import END_OF_THINKING, last_box
from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.grading.markup import plain
from egrc_mega.grading.syntax import SyntaxRefusal, parse_expression
from egrc_mega.grading.verdicts import Reason
from egrc_mega.types import Grade, Hints, Verdict


class DeepScaleRSection(GraderSection):
    """DeepScaleR's training reward: strict about order, units and reduced fractions."""

    grader: Literal["deepscaler"] = "deepscaler"
    """Which grader."""


class DeepScaleR(Grader):
    """Text after the first `</think>`, its last box, equal by `mathd` or as sympy would say."""

    Config = DeepScaleRSection
    judges_mathematics = True

    def extract(self, text: str, prompt_thinks: bool = True) -> str | None:
        """The last box between the first and the second `</think>`; without a `</think>` there is no answer."""
        parts = text.split(END_OF_THINKING)
        return last_box(parts[1]) if len(parts) > 1 else None

    def judge(self, answer: str, gold: str, hints: Hints) -> Verdict:
        """Equal after `mathd`'s normalisation, or part by part by value."""
        gold = last_box(gold) or gold
        if mathd_normalised(answer) == mathd_normalised(gold):
            return _verdict(Reason.EQUAL_TEXT, True)
        return _verdict(Reason.SAMPLED, _equal_by_parts(_prm800k_normalised(answer), _prm800k_normalised(gold)))


class ThinklessSection(GraderSection):
    """Thinkless' evaluation: the first number of answer and gold decides. Lax: `3\\sqrt{2}` equals 3."""

    grader: Literal["thinkless_compat"] = "thinkless_compat"
    """Which grader."""


class Thinkless(Grader):
    """The last box of the whole text, else its last number; right where the first numbers are equal."""

    Config = ThinklessSection
    judges_mathematics = True

    def extract(self, text: str, prompt_thinks: bool = True) -> str | None:
        """The last box anywhere, thinking included; without one the last number."""
        box = last_box(text)
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text[-2000:]) if box is None else []
        return box if box is not None else numbers[-1] if numbers else None

    def judge(self, answer: str, gold: str, hints: Hints) -> Verdict:
        """As DeepScaleR's, or by the first numbers."""
        first, second = (re.search(r"-?\d+(?:\.\d+)?", text.replace(",", "")) for text in (answer, gold))
        if first and second and float(first[0]) == float(second[0]):
            return _verdict(Reason.NUMERAL, True)
        if mathd_normalised(answer) == mathd_normalised(gold):
            return _verdict(Reason.EQUAL_TEXT, True)
        return _verdict(Reason.SAMPLED, _equal_by_parts(_prm800k_normalised(answer), _prm800k_normalised(gold)))


def _verdict(reason: Reason, is_right: bool) -> Verdict:
    return Verdict(grade=Grade.RIGHT if is_right else Grade.WRONG, reason=reason)


def mathd_normalised(text: str) -> str:
    """The normal form of MATH's own grader."""
    text = text.strip()
    if found := re.fullmatch(r"\\text\{(.+?)\}", text):
        text = found[1].strip()
    for old, new in (
        ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
        ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("\\%", ""), (" .", " 0."), ("{.", "{0."),
    ):  # fmt: skip
        text = text.replace(old, new)
    text = text.split("\\text{ ")[0]
    text = f"0{text}" if text.startswith(".") else text
    left, equals, right = text.partition("=")
    text = right if equals and len(left) <= 2 and "=" not in right else text
    text = re.sub(r"\\sqrt(?!\{)\s*(\w)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


_UNIT_WORDS = (
    "degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard"
)  # fmt: skip


def _prm800k_normalised(text: str) -> str:
    """The normal form of PRM800K's grader, which DeepScaleR's falls back on."""
    if found := re.fullmatch(r"\\text\{(.+)\}", text.strip()):
        text = found[1]
    for old in ("\\%", "\\$", "$", "%"):
        text = text.replace(old, "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    text = text.replace("million", "*10^6").replace("billion", "*10^9").replace("trillion", "*10^12")
    text = re.sub(rf"(?:{_UNIT_WORDS})(?:es)?(?:s)?\s*(?:\^\d+)?", "", text)
    text = re.sub(r"\^\s*\\circ", "", text).strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\!\s*", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text)
    return re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", plain(text).replace(" ", "").lower())


def _equal_by_parts(answer: str, gold: str) -> bool:
    """Tuples part by part, in order and with the same brackets."""
    if not answer:
        return False
    if answer == gold:
        return True
    answers, golds = _parts(answer), _parts(gold)
    if len(golds) > 1 and (answer[:1], answer[-1:]) != (gold[:1], gold[-1:]):
        return False
    return len(answers) == len(golds) and all(map(_equal_part, answers, golds))


def _parts(text: str) -> list[str]:
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not any(b in text[1:-1] for b in "()[]"):
        return text[1:-1].split(",")
    return [text]


def _equal_part(answer: str, gold: str) -> bool:
    """Fractions must be reduced as the gold is, and an integer gold wants an integer."""
    fraction = r"-?(?:[0-9]+/0*[1-9][0-9]*|\\frac\{[0-9]+\}\{0*[1-9][0-9]*\})"
    if re.fullmatch(fraction, answer) and re.fullmatch(fraction, gold):
        return answer == gold
    integers = [re.fullmatch(r"-?\d+(?:\.0*)?", text) is not None for text in (answer, gold)]
    if integers == [False, True]:
        return False
    try:
        trees = parse_expression(gold), parse_expression(answer)
    except SyntaxRefusal:
        return False
    from egrc_mega.grading.compare import are_equal
    from egrc_mega.grading.numerics import TooBig

    try:
        return are_equal(*trees)
    except TooBig:
        return False
