import os
import signal
import threading
import time

import pytest

from compressae.kernels.threads import over_rows


@pytest.mark.parametrize("threads", [1, 2, 5, None])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_slices_cover_the_rows_once(n, threads):
    seen = []
    over_rows(lambda start, stop: seen.extend(range(start, stop)), n, threads)
    assert sorted(seen) == list(range(n))


def test_work_may_split_its_own_work():
    """Threads that waited for threads of their own pool would wait for ever."""
    seen = []

    def outer(start, stop):
        over_rows(lambda a, b: seen.extend((start, i) for i in range(a, b)), 4, 2)

    thread = threading.Thread(target=over_rows, args=(outer, 2, 2), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert sorted(seen) == [(start, i) for start in (0, 1) for i in range(4)]


def test_an_error_reaches_the_caller():
    def fail(start, stop):
        raise ValueError(f"at {start}")

    with pytest.raises(ValueError, match="at 0"):
        over_rows(fail, 4, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_starts_threads_of_its_own():
    """As under a server that forks workers after it searched."""
    over_rows(lambda start, stop: None, 4, 2)  # The parent's pool has threads.
    child = os.fork()
    if not child:
        seen = []
        over_rows(lambda start, stop: seen.extend(range(start, stop)), 4, 2)
        os._exit(0 if sorted(seen) == [0, 1, 2, 3] else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it does not have")
    assert status == 0
