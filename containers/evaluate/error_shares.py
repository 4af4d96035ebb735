"""How the error of refusing is divided over the tests of a suite.

One test is enough to refuse, so together they may be wrong with `1 - confidence`. It need not be divided evenly: any parts that
are fixed before anything is measured keep the whole (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70, section 4), and most
damage is seen if the tests that are sure at any level get less of it (Roeder and Wasserman, Statistical Science 24, 2009, 398-413).
Where one answer in ten differs, a benchmark of 5,000 questions that lost twice its margin of 2 points is 4.5 standard errors beyond
the margin, one of 1,319 questions 2.3. So those of 5,000 questions or more get a tenth of a share, and all others and every average a
whole one.

Step-down procedures (Holm, Hochberg) would add nothing: they help the tests after the first that refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SURE: Final = 5000  # questions
_TENTH: Final = 0.1


def share(questions: int) -> float:
    """Of a benchmark with so many declared questions; that of an average is 1."""
    return _TENTH if questions >= _SURE else 1.0


def even_tests(questions: Sequence[int], averages: int) -> tuple[list[float], float]:
    """For each benchmark, and for an average, how many tests would have to share the error evenly to give it the same part."""
    shares = [share(one) for one in questions]
    whole = sum(shares) + averages
    return [whole / one for one in shares], whole
