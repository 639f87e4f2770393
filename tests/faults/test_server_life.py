"""Faults of a server's life"""

import pytest
from arrangements import of_own
from fault import Fault, check, rows

FAULTS = (
    Fault(
        "dies-midway",
        "the server dies in the middle of an answer, with an error in its log",
        of_own("--answer=die", "--after=4"),
        says=("server 's' died", "exit code 7", "an illegal memory access", "s.log"),
        keeps=3,
    ),
    Fault(
        "killed-midway",
        "the server is killed by SIGKILL, as by the kernel out of memory",
        of_own("--answer=kill_self", "--after=4"),
        says=("server 's' died", "exit code 137 (SIGKILL)", "out of memory?"),
        keeps=3,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
