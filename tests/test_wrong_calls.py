"""Wrong calls over the whole public surface: an error of ours names the argument and what came."""

import traceback
from collections import Counter
from pathlib import Path

import pytest
from wrong import data, evaluation, explorer, io, parts, plots, programs, training
from wrong.things import things

import ppl_vae

ROOMS = (parts, programs, training, evaluation, data, io, plots, explorer)
ROWS = [row for room in ROOMS for row in room.ROWS]
ROOT = Path(ppl_vae.__file__).parent

pytestmark = pytest.mark.usefixtures("as_users_see_it")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return things(tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("row", ROWS, ids=[call for call, *_ in ROWS])
def test_a_wrong_call_is_told_in_our_words(row, names, monkeypatch):
    call, error, *named = row
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )  # Inductor takes seconds
    with pytest.raises(error) as caught:
        eval(call, names)
    message = str(caught.value)
    assert [name for name in named if name not in message] == [], message
    assert message.count("\n") < 2, message
    assert Path(traceback.extract_tb(caught.tb)[-1].filename).is_relative_to(ROOT), message


def test_each_call_is_there_once():
    assert len(ROWS) >= 150
    assert [call for call, number in Counter(call for call, *_ in ROWS).items() if number > 1] == []
