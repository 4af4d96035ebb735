"""What is no answer to a run that waits for approval is told in one line, before the server is asked."""

from __future__ import annotations

import pytest

from containers.errors import BadInput
from flows.orchestrator.approval import answer

RUN = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("run", "reason", "said"),
    [
        (RUN, "", "reason: String should have at least 1 character"),
        (RUN, "  ", "reason: Value error, give a reason: it is recorded"),
        (RUN, "secret " * 99, "reason: String should have at most 500 characters"),
        ("mine", "fine", "badly formed hexadecimal UUID string"),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(run: str, reason: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        answer(run, approve=True, reason=reason)
    assert caught.value.message == f"no answer for {run!r}: {said}"
    assert "--reason" in caught.value.remedy
