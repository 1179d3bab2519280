"""Tables 1 and 2 of the paper (arXiv 2511.14258v1) as data, its L-Acc recomputed, and the cells that disagree marked.

A printed L-Acc may differ from the recomputed one by its own rounding and that of its accuracy. Six of the 72 do by
more: the five of OlympiadBench at 7B were made with the base length of the 1.5B model (11236 instead of 9031), and
AutoThink's on AMC at 7B repeats Laser's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from egrc_mega.evaluation.statistics.l_acc import l_acc

BENCHMARKS = ("AIME24", "Minerva", "MATH", "GSM8K", "AMC", "OlympiadBench")
"""In the order of the columns. By their rows "Minerva" is Hendrycks' MATH algebra, and "AMC" the 83 problems of
aimo-validation-amc, 40 in the rows of Qwen2.5."""
ROUNDING = 0.15
"""Largest difference, in points, that rounding explains: 0.05 of the accuracy, 0.05 of the L-Acc, and what half a token
in both lengths moves."""

TABLE_1 = """
1.5B Qwen2.5-1.5B-Ins             0.0 1300  -     77.7 993  -     51.7 855  -     70.2 466  -     0    730   -     7.3  682   -
1.5B Qwen2.5-1.5B-Math-Ins        11.3 1128 -     91.8 586  -     76.0 721  -     85.7 447  -     0    823   -     21.4 774   -
1.5B R1-Distill-Qwen2.5-1.5B      33.3 16927 -    96.4 3054 -     87.2 5485 -     84.6 1909 -     61.4 11157 -     44.7 11236 -
1.5B AutoThink                    30.0 7016 23.0  95.5 959  79.1  87.0 1851 70.8  86.4 743  67.5  66.3 4656  50.6  45.2 5296  32.8
1.5B AdaptThink                   33.3 8492 23.5  96.3 1267 73.7  82   2158 63.9  83.1 971  58.3  62.6 4194  49.5  44.5 5291  32.4
1.5B Thinkless                    36.7 8848 25.3  95.3 1178 74.7  84.6 2623 61.1  84.5 637  69.0  57.8 6861  35.9  42.5 6625  27.2
1.5B ThinkPrune                   26.7 8175 19.2  96.0 1403 70.6  85.8 2321 65.2  85.0 907  61.6  63.9 4354  49.9  43.0 4401  33.5
1.5B Laser                        40.0 5635 32.7  96.6 1323 72.7  87.0 2073 68.6  86.2 996  59.6  65.1 4963  48.5  45.8 5512  32.7
1.5B LC-R1                        23.3 11124 13.7 94.4 1374 70.0  83.6 2921 57.2  80.1 789  61.3  60.2 4778  45.5  39.3 4639  30.1
1.5B EGRC                         36.7 3634 32.5  97.1 671  85.7  87.4 1180 77.4  87.2 586  72.6  66.3 2083  59.8  45.3 2275  40.5
7B   Qwen2.5-7B-Ins               12.0 1016 -     91.2 649  -     74.2 567  -     90.9 279  -     47.5 801   -     39.2 827   -
7B   Qwen2.5-7B-Math              19.0 1429 -     93.1 761  -     63.4 740  -     93.2 439  -     62.5 1022  -     31.5 1037  -
7B   Qwen2.5-7B-Math-Ins          10.3 1363 -     94.2 730  -     81.4 670  -     95.2 323  -     60.0 1029  -     38.9 1027  -
7B   R1-Distill-Qwen2.5-7B        56.7 14108 -    98.7 2435 -     93.4 4181 -     92.8 1700 -     81.9 7630  -     56.2 9031  -
7B   AutoThink                    56.7 6611 41.3  98.6 944  77.2  92.6 1808 69.8  93.4 695  71.8  84.3 3638  60.7  55.0 4415  42.9
7B   AdaptThink                   53.3 8023 35.0  98.1 1139 71.6  92   1902 67.9  91   812  65.8  83.1 3891  58.2  52.8 3782  43.0
7B   Laser                        50.0 6054 37.8  98.3 1276 67.8  93.0 1762 70.7  93.0 965  61.2  81.9 3437  60.7  54.3 3365  45.5
7B   LC-R1                        46.7 7384 32.2  97.1 850  78.4  92.4 1653 71.8  90.2 507  75.6  80.7 3418  60.0  53.0 4093  42.3
7B   EGRC                         53.3 4094 44.9  98.0 651  83.9  92.4 1078 79.6  93.6 428  81.0  83.1 1838  72.4  53.5 1911  48.6
"""  # noqa: E501
"""Size and model, then for each benchmark accuracy in per cent, mean length in tokens and printed L-Acc."""

TABLE_2 = """
base                       33.3 16927  96.4 3054  87.2 5485  84.6 1909
explore-then-explored      40.0 6721   97.3 982   87.6 1992  86.8 714
explore-then-compressed    30.0 3763   94.0 714   83.6 1089  80.9 460
compress-then-explore      36.7 3634   97.1 671   87.4 1180  87.2 586
clip-2048                  33.3 3418   94.8 590   84.6 1017  85.1 412
clip-4096                  36.7 3634   97.1 671   87.4 1180  87.2 586
clip-8192                  43.3 6662   97.3 829   87.6 1690  87.3 700
cosine                     36.7 5705   96.6 871   86.2 1428  86.5 683
linear                     33.3 4783   96.5 761   86.8 1509  86.0 612
exponential                36.7 3634   97.1 671   87.4 1180  87.2 586
"""
"""Setting, then for each of the first four benchmarks accuracy in per cent and mean length in tokens."""

BASES = MappingProxyType({"1.5B": "R1-Distill-Qwen2.5-1.5B", "7B": "R1-Distill-Qwen2.5-7B"})
"""The models that the compressed ones began as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCell:
    """One model on one benchmark, as printed."""

    table: int
    size: str
    model: str
    benchmark: str
    accuracy: float
    """In per cent."""
    length: float
    """Mean output tokens."""
    l_acc: float | None
    """Printed, in points; None: the table has none."""
    base_length: float | None
    """Of the base of the same size; None where the model did not begin as that base."""

    @property
    def recomputed(self) -> float | None:
        """L-Acc by its formula, in points, from the printed accuracy and lengths."""
        return None if self.base_length is None else l_acc(self.accuracy, self.length, self.base_length)

    @property
    def disagrees(self) -> bool:
        """The printed L-Acc is not the formula's, by more than rounding explains."""
        if self.l_acc is None or self.recomputed is None:
            return False
        return abs(self.l_acc - self.recomputed) > ROUNDING


def table_1() -> list[PaperCell]:
    """All cells, row by row."""
    rows = [line.split() for line in TABLE_1.strip().splitlines()]
    bases = {row[0]: dict(_triples(row[2:])) for row in rows if row[1] == BASES[row[0]]}
    return [
        PaperCell(
            table=1,
            size=row[0],
            model=row[1],
            benchmark=benchmark,
            accuracy=float(accuracy),
            length=float(length),
            l_acc=None if printed == "-" else float(printed),
            base_length=None if printed == "-" else float(bases[row[0]][benchmark][1]),
        )
        for row in rows
        for benchmark, (accuracy, length, printed) in _triples(row[2:])
    ]


def table_2() -> list[PaperCell]:
    """All cells, row by row; the table prints no L-Acc, and all settings began as the 1.5B base."""
    rows = [line.split() for line in TABLE_2.strip().splitlines()]
    base_lengths = [float(length) for length in rows[0][2::2]]
    return [
        PaperCell(
            table=2,
            size="1.5B",
            model=row[0],
            benchmark=benchmark,
            accuracy=float(accuracy),
            length=float(length),
            l_acc=None,
            base_length=None if row[0] == "base" else base_length,
        )
        for row in rows
        for benchmark, accuracy, length, base_length in zip(
            BENCHMARKS, row[1::2], row[2::2], base_lengths, strict=False
        )
    ]


def _triples(numbers: list[str]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Benchmark by benchmark: accuracy, length, printed L-Acc."""
    for place, benchmark in enumerate(BENCHMARKS):
        accuracy, length, printed = numbers[3 * place : 3 * place + 3]
        yield benchmark, (accuracy, length, printed)
