"""Memory that malloc keeps, and gives back: in a process of its own, whose settings are its own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("compiled_for_users")

MEASURE = """
import ctypes, re
from recurrentgemma.memory import give_back_freed_memory, keep_freed_memory

def resident_mb():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+)", status.read())[1]) / 1000

assert keep_freed_memory()
before = resident_mb()
large = bytearray(b"x" * 100_000_000)
kept = bytes(1_000_000)  # above it on the heap
del large
while_kept = resident_mb()
assert give_back_freed_memory()
print(while_kept - before, resident_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc only")
def test_what_is_freed_is_kept_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    kept, given_back = map(float, done.stdout.split())
    assert kept > 90, done.stderr
    assert given_back < 20
