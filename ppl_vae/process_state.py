"""Turns of threads: one at a time runs programs, and each training has random numbers of its own.

Pyro's handlers, validation and parameter store, torch's generators and the modes of modules are one
per process. What changes them for a while does so within :func:`exclusively`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK

from ppl_vae.random_state import Snapshot, put_back, restored, snapshot

_Store = tuple[dict, dict, dict]
"""What Pyro's parameter store holds: tensors, their names, their constraints."""


class _State:
    """Random numbers, and perhaps a parameter store, while others are in their places."""

    def __init__(self) -> None:
        self.random: Snapshot | None = None
        self.store: _Store | None = None


class _Turns:
    """Who is at work, and who comes next."""

    def __init__(self) -> None:
        # Who waits for the turn keeps the next one: a loop that has just finished a step and wants
        # another cannot come before them, as it could with one lock.
        self.now, self.next = threading.Lock(), threading.Lock()
        self.holder: int | None = None
        self.common = self.drawn_from = _State()
        """The state of all threads that have none of their own; that in the generators."""

    @contextmanager
    def using(self, state: _State) -> Iterator[None]:
        """Within ``with``, have a state in place.

        What is not common is taken out again afterwards. Random numbers stay where there is no
        thread that could draw from them: exchanging them takes as long as a small step.
        """
        self.draw_from(state)
        if state.store is None:
            yield
            return
        outside = _exchanged(state.store)
        try:
            yield
        finally:
            state.store = _exchanged(outside)
            if _others():
                self.draw_from(self.common)

    def draw_from(self, state: _State) -> None:
        """Put a state's random numbers in the generators."""
        if self.drawn_from is not state:
            self.drawn_from.random = snapshot()
            if state.random is not None:
                put_back(state.random)
            self.drawn_from = state


_turns = _Turns()
_thread = threading.local()


@contextmanager
def exclusively() -> Iterator[None]:
    """Within ``with``, no other thread is within its own; a thread may do so again, and again.

    A backward pass within runs in this thread, on any device: what it computes anew
    (``chunk_size``) runs programs, too.
    """
    turns, me = _turns, threading.get_ident()
    if turns.holder == me:
        yield
        return
    with turns.next:
        turns.now.acquire()
    try:
        turns.holder = me
        state = getattr(_thread, "state", None) or turns.common
        with turns.using(state), torch.autograd.set_multithreading_enabled(False):
            yield
    except (ValueError, RuntimeError) as error:
        _leave_shapes_out(error)
        raise
    finally:
        turns.holder = None
        turns.now.release()


@contextmanager
def own_state() -> Iterator[None]:
    """Within ``with``, turns of this thread have random numbers and a parameter store of their own.

    The random numbers go on from the global generators of torch, numpy and Python, the store is
    empty. Both are afterwards as if nothing had been drawn or stored.
    """
    if _turns.holder == threading.get_ident():  # all of it is within one turn
        with restored(), pyro.get_param_store().scope():
            yield
        return
    before, own = getattr(_thread, "state", None), _State()
    with exclusively():
        own.random, own.store = snapshot(), ({}, {}, {})
    _thread.state = own
    try:
        yield
    finally:
        _thread.state = before
        with exclusively():
            pass  # which puts back what was there before


def _leave_shapes_out(error: Exception) -> None:
    """Take Pyro's table of shapes out of an error that this package raised within a program.

    Pyro appends it to whatever a program raises. With an error of a user's own program it stays.
    """
    own: BaseException = error
    # As far as it was appended: an error of this package may quote another one, its own cause.
    while "Trace Shapes:" in str(own) and own.__cause__ and str(own.__cause__) in str(error):
        own = own.__cause__
    raised, text = own.__traceback__, str(own)
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    module = "" if raised is None else raised.tb_frame.f_globals.get("__name__", "")
    if own is not error and text and module.partition(".")[0] == __package__:
        before = str(error).partition(text)[0]  # such as the site whose density it is
        error.args = (" ".join([*before.split(), text]),)


def _others() -> bool:
    """Tell whether there are other threads; that which looks after progress bars runs nothing."""
    return any(
        thread is not threading.current_thread() and type(thread).__name__ != "TMonitor"
        for thread in threading.enumerate()
    )


def _exchanged(store: _Store) -> _Store:
    """Put another parameter store in place, and return what was there."""
    there = pyro.get_param_store()
    before = there._params, there._param_to_name, there._constraints
    there._params, there._param_to_name, there._constraints = store
    return before


def _in_child() -> None:
    """Let a forked process begin anew: threads that were at work are not there."""
    global _turns
    if _turns.holder not in (None, threading.get_ident()):
        _PYRO_STACK.clear()
    _turns = _Turns()
    _thread.state = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
