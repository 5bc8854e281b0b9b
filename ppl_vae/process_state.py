"""State that a process has once: one thread at a time uses it, and each training has its own.

Pyro's handlers, validation and parameter store, torch's generators and the modes of modules are
global. Code that changes them for a while does so within :func:`exclusively`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK

from ppl_vae.errors import seed_of
from ppl_vae.random_state import Snapshot, put_back, snapshot

_Store = tuple[dict, dict, dict]
"""The contents of Pyro's parameter store: tensors, their names, their constraints."""


@dataclass(eq=False)
class _State:
    """Random state, and for a training a parameter store, while they are swapped out."""

    random: Snapshot | None = None
    store: _Store | None = None


class _Lock:
    """A fair lock on the process's state, which also swaps in the state of its holder."""

    def __init__(self) -> None:
        # Who waits holds the second lock: with one alone, a loop that releases it after each step
        # would mostly take it again before anyone who waits.
        self.now, self.next = threading.Lock(), threading.Lock()
        self.holder: int | None = None
        self.common = self.in_generators = _State()
        """The state of threads without their own; the one that is in the global generators."""

    @contextmanager
    def using(self, state: _State) -> Iterator[None]:
        """Swap a state in, and out again if it is a training's own.

        Random state stays in while no other thread could draw from it: swapping takes as long as a
        small training step.
        """
        self.swap_random(state)
        if state.store is None:
            yield
            return
        outside = _swap_store(state.store)
        try:
            yield
        finally:
            state.store = _swap_store(outside)
            if _other_threads():
                self.swap_random(self.common)

    def swap_random(self, state: _State) -> None:
        """Put a state's random state into the global generators."""
        if self.in_generators is not state:
            self.in_generators.random = snapshot()
            if state.random is not None:
                put_back(state.random)
            self.in_generators = state


class _Thread(threading.local):
    """What a thread has of its own."""

    state: _State | None = None


_lock = _Lock()
_thread = _Thread()


@contextmanager
def exclusively() -> Iterator[None]:
    """Keep other threads out of their ``exclusively()``; reentrant within a thread.

    Backward passes run in this thread, on any device: what they recompute (``chunk_size``) runs
    programs, too.
    """
    lock, me = _lock, threading.get_ident()
    if lock.holder == me:
        yield
        return
    with lock.next:
        lock.now.acquire()
    try:
        lock.holder = me
        state = _thread.state or lock.common
        with lock.using(state), torch.autograd.set_multithreading_enabled(False):
            yield
    except (ValueError, RuntimeError) as error:
        _remove_shapes(error)
        raise
    finally:
        lock.holder = None
        lock.now.release()


@contextmanager
def restored() -> Iterator[None]:
    """Restore the states of all generators on exit; no other thread draws meanwhile."""
    with exclusively():
        states = snapshot()
        try:
            yield
        finally:
            put_back(states)


@contextmanager
def own_state() -> Iterator[None]:
    """Give this thread its own random state and parameter store within its ``exclusively()``.

    The random state continues from the global generators; the store is empty. On exit, both are as
    if nothing had been drawn or stored.
    """
    if _lock.holder == threading.get_ident():  # all of it is within one exclusively()
        with restored(), pyro.get_param_store().scope():
            yield
        return
    before, own = _thread.state, _State()
    with exclusively():
        own.random, own.store = snapshot(), ({}, {}, {})
    _thread.state = own
    try:
        yield
    finally:
        _thread.state = before
        with exclusively():
            pass  # swaps the former state in


@contextmanager
def seeded(owner: str, seed: int) -> Iterator[None]:
    """Seed torch's generators and restore them on exit; no other thread draws meanwhile.

    Raises TypeError or ValueError unless the seed is an unsigned integer of 64 bits.
    """
    seed = seed_of(owner, seed)
    with restored():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # otherwise torch would remember to seed the devices later
            torch.cuda.manual_seed_all(seed)
        yield


def _remove_shapes(error: Exception) -> None:
    """Remove Pyro's table of shapes from an error that this package raised within a program.

    Pyro appends it to whatever a program raises. In errors of a user's own program it stays.
    """
    own: BaseException = error
    # Pyro appends at every level. (An error of this package may also quote its own cause.)
    while "Trace Shapes:" in str(own) and own.__cause__ and str(own.__cause__) in str(error):
        own = own.__cause__
    raised, text = own.__traceback__, str(own)
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    module = "" if raised is None else raised.tb_frame.f_globals.get("__name__", "")
    if own is not error and text and module.partition(".")[0] == __package__:
        before = str(error).partition(text)[0]  # such as the site whose density it is
        error.args = (" ".join([*before.split(), text]),)


def _other_threads() -> bool:
    """Return whether other threads could draw; tqdm's monitor does not."""
    return any(
        thread is not threading.current_thread() and type(thread).__name__ != "TMonitor"
        for thread in threading.enumerate()
    )


def _swap_store(store: _Store) -> _Store:
    """Put contents into Pyro's parameter store, and return the former ones."""
    there = pyro.get_param_store()
    before = there._params, there._param_to_name, there._constraints
    there._params, there._param_to_name, there._constraints = store
    return before


def _reset_in_child() -> None:
    """Start anew in a forked process, where the other threads do not exist."""
    global _lock
    if _lock.holder not in (None, threading.get_ident()):
        _PYRO_STACK.clear()
    _lock = _Lock()
    _thread.state = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
