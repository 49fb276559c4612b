"""A file of tests, each with a folder or a server of its own:

    @test
    def survives_a_kill(server): ...

    sys.exit(run_tests(sys.argv[2:], lambda folder: Holdfast(binary, folder)))

run_tests() runs those that are named, or all, and tells each; the exit status is 1 if one failed."""

import concurrent.futures
import tempfile
import time
import traceback

TESTS = []


def test(function):
    TESTS.append(function)
    return function


def only_when_named(function):
    """For clients that fail by themselves now and then."""
    function.only_when_named = True
    return test(function)


def one(function, around):
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as folder:
        context = around(folder)
        try:
            with context as given:
                function(given)
            print(f"ok      {function.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            return True
        except Exception:
            log = context.log()[-2000:] if hasattr(context, "log") else ""
            print(f"FAILED  {function.__name__}\n{traceback.format_exc()}{log}", flush=True)
            return False


def run_tests(wanted, around, side_by_side=1):
    """around(folder) is a context; what it gives is the argument of the test. It may have a log(), told if the test fails."""
    chosen = [f for f in TESTS if f.__name__ in wanted or not (wanted or hasattr(f, "only_when_named"))]
    unknown = set(wanted) - {f.__name__ for f in TESTS}
    if unknown or not chosen:
        print(f"none of the tests is named {' or '.join(sorted(unknown))}")
        return 1
    with concurrent.futures.ThreadPoolExecutor(side_by_side) as pool:
        return 0 if all(list(pool.map(lambda f: one(f, around), chosen))) else 1
