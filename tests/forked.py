"""Copies of this process: importing the package in another one takes seconds."""

import os
import signal
import time
import traceback
import warnings


def forked(run, seconds=None):
    """Run a function in a copy of this process; kill it after so many seconds, if they are given.

    Returns the exit status, or minus the number of the signal that ended it. Nothing is trained in
    a copy: it has not the threads that autograd and OpenMP may count on.
    """
    with warnings.catch_warnings():
        # Later versions of Python warn of threads, such as that of pytest-xdist.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
