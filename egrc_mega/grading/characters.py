"""Writes the characters that people and models use for mathematics as LaTeX in ASCII; drops the invisible ones."""

# ruff: noqa: RUF001
import re
import unicodedata

_SYMBOLS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": r"\div ", "±": r"\pm ",
    "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∞": r"\infty ", "°": r"\degree ",
    "º": r"\degree ", "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
    "≃": r"\approx ", "≅": r"\cong ", "≡": r"\equiv ", "∈": r"\in ", "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "→": r"\to ", "⇒": r"\implies ", "…": r"\ldots ",
    "⋯": r"\ldots ", "∠": r"\angle ", "△": r"\triangle ", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℏ": r"\hbar ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "∧": r"\land ", "∨": r"\lor ", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "–": "-",
    "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "⁄": "/", "∕": "/", "∣": "|", "∶": ":", "、": ",", "。": ".",
    "∗": "*", "µ": r"\mu ", "Å": "A", "£": "", "€": "", "¥": "", "¢": r"\text{ cents}", "ı": "i",
}  # fmt: skip
_GREEK = {
    "alpha": "αΑ", "beta": "βΒ", "gamma": "γ", "Gamma": "Γ", "delta": "δ", "Delta": "Δ∆", "epsilon": "εϵ", "zeta": "ζ",
    "eta": "η", "theta": "θϑ", "Theta": "Θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "Lambda": "Λ", "mu": "μ",
    "nu": "ν", "xi": "ξ", "Xi": "Ξ", "pi": "π", "Pi": "Π", "rho": "ρ", "sigma": "σς", "Sigma": "Σ", "tau": "τ",
    "phi": "φϕ", "Phi": "Φ", "chi": "χ", "psi": "ψ", "Psi": "Ψ", "omega": "ω", "Omega": "ΩΩ",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘ", "0123456789+-=()aeoxnkm")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘ]+")
_TABLE = str.maketrans(_SYMBOLS | {letter: f"\\{name} " for name, letters in _GREEK.items() for letter in letters})


def in_ascii(text: str) -> str:
    """The same text with every character that has an ASCII spelling in LaTeX written so. Linear in the text.

    Format characters (zero-width spaces, marks of direction) are dropped, every kind of space is a space.
    """
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    return "".join(map(_one, text.translate(_TABLE)))


def _one(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return " "
    # full-width forms, mathematical alphabets and fractions; other characters keep their shape
    folded = unicodedata.normalize("NFKC", character)
    if "⁄" in folded:
        numerator, denominator = folded.split("⁄")
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    return folded.translate(_TABLE) if folded.translate(_TABLE).isascii() else character
