"""How golds are understood when they are read: types, values, parts, and why one is set aside."""

from fractions import Fraction

import pytest

from egrc_mega.grading.gold import AnswerType, GoldError, understand
from egrc_mega.types import Hints


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("142.0", "integer"),
        ("025", "integer"),
        ("1,000", "integer"),
        ("\\$32,\\!348", "integer"),
        ("#### 18", "integer"),
        ("-3./2", "rational"),
        ("137 \\frac{1}{2}", "rational"),
        ("0.\\overline{3}", "rational"),
        ("5.4 \\text{ cents}", "decimal"),
        ("62.5%", "percent"),
        ("11\\sqrt2", "closed form"),
        ("2^{1009}", "closed form"),
        ("np.arcsin(10/13)", "closed form"),
        ("2k+2", "expression"),
        ("\\int_0^x f dt", "expression"),
        ("5x - 7y + 11z + 4 = 0", "equation"),
        ("k \\geqslant 2", "inequality"),
        ("f(2) < f(1) < f(4)", "inequality"),
        ("(0,9) \\cup (9,36)", "interval"),
        ("[2,5)", "interval"),
        ("x \\in [-2,7]", "interval"),
        ("\\mathbb{R} \\setminus \\{0\\}", "interval"),
        ("(6,31,-1)", "tuple"),
        ("1,-2", "list"),
        ("1 \\pm \\sqrt{19}", "list"),
        ("\\{1\\pm\\sqrt{5},-2\\}", "list"),
        ("12 \\text{ and } 13", "list"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "matrix"),
        ("1:2:3", "ratio"),
        ("1:58 am", "time"),
        ("4210_{5}", "base"),
        ("\\text{(C)}", "choice"),
        ("\\text{Evelyn}", "words"),
        ("Quadrant II", "words"),
    ],
)
def test_a_gold_has_the_type_that_its_text_says(text: str, expected: str) -> None:
    assert understand(text).type == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7.8\\times 10^2", Fraction(780)),
        ("8.7e8", Fraction(870_000_000)),
        ("1\\frac{4}{5}", Fraction(9, 5)),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("17.5%", Fraction(35, 2)),
        ("10,\\!080", Fraction(10080)),
        ("5e-324", Fraction(5, 10**324)),
    ],
)
def test_numerals_have_their_exact_value(text: str, value: Fraction) -> None:
    assert understand(text).value == value


def test_names_and_units_are_told_apart_from_the_value() -> None:
    gold = understand("v_{\\max} = 5 \\text{ m/s}")
    assert (gold.name, gold.value, gold.unit) == ("v_{\\max}", Fraction(5), "m s^-1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("$$", "no number, letter or word"),
        (".", "no number, letter or word"),
        ("\u200b", "no number, letter or word"),
        ("\frac{1}{2}", "control character \\(U\\+000C\\): a backslash before a letter was lost"),
        ("\times 3", "control character"),
        ("1\x003", "control character"),
        ("7" * 1001, "1001 characters"),
        ("\\frac{", "does not parse"),
        ("}{", "no number, letter or word"),
        ("}4{", "does not parse"),
        ("t(0,4]", "does not parse"),
        ("? 4", "does not parse"),
        ("\\unknown{3}", "does not parse"),
        ("145$solution:", "dollar sign that closes nothing"),
        ("$f(x)=ax+b$, where $b$ is an arbitrary integer", "prose"),
        ("the set of all primes that leave the rest one when they are halved", "prose"),
        ("[]", "no number, letter or word"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 \\end{pmatrix}", "different lengths"),
    ],
)
def test_a_gold_that_cannot_be_graded_says_why(text: str, reason: str) -> None:
    with pytest.raises(GoldError, match=reason):
        understand(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [("142", "142.0"), ("1/2", "\\frac{1}{2}"), ("$4$", "4"), ("1,2", "2, 1"), ("\\text{Yes}", "yes"), ("x=3", "3")],
)
def test_the_key_is_the_same_for_the_same_value(first: str, second: str) -> None:
    assert understand(first).key == understand(second).key


@pytest.mark.parametrize(("first", "second"), [("142", "143"), ("(1,2)", "(2,1)"), ("40%", "40"), ("(1,2)", "1,2")])
def test_the_key_differs_where_the_value_does(first: str, second: str) -> None:
    assert understand(first).key != understand(second).key


@pytest.mark.parametrize("text", ["['0.54\\n', '0.55']", '["0.54\\n", "0.55"]', '["0.54", "0.55"]'])
def test_a_list_of_texts_is_alternatives_where_the_profile_says_so_and_else_all_are_wanted(text: str) -> None:
    any_of = understand(text, Hints(profile="minerva"))
    assert (any_of.value, [other.value for other in any_of.alternatives]) == (Fraction(27, 50), [Fraction(11, 20)])
    assert [part.value for part in understand(text).parts] == [Fraction(27, 50), Fraction(11, 20)]


def test_backslashes_in_a_list_written_as_text_stay() -> None:
    assert understand("['$\\frac{1}{2 n+2}$']").type == AnswerType.EXPRESSION
    assert understand("['\\\\frac{1}{2}']").value == Fraction(1, 2)


def test_a_forced_type_is_taken_or_refused() -> None:
    assert understand("1,22", Hints(answer_type="decimal")).value == Fraction(61, 50)
    assert understand("5;10", Hints(answer_type="tuple")).type == AnswerType.TUPLE
    with pytest.raises(GoldError, match=r"is no integer, as data\.answer_type says"):
        understand("\\frac12", Hints(answer_type="integer"))
    with pytest.raises(GoldError, match="answer_type 'number' is unknown; choose from integer"):
        understand("4", Hints(answer_type="number"))


@pytest.mark.parametrize("text", ["1000", "-1", "\\frac12", "x"])
def test_a_set_of_integers_in_a_range_refuses_other_golds(text: str) -> None:
    with pytest.raises(GoldError, match="the profile aime wants an integer of 0 to 999"):
        understand(text, Hints(profile="aime"))


def test_a_unit_and_an_error_of_the_row_belong_to_the_gold() -> None:
    gold = understand("4.2", Hints(unit="%", error="1e-1"))
    assert (gold.unit, gold.error) == ("%", Fraction(1, 10))
    with pytest.raises(GoldError, match="its tolerance 'much' is no number"):
        understand("4.2", Hints(error="much"))
