"""Shared by all tests."""

import signal

pytest_plugins = ["pytester"]

# Shells start background jobs without Ctrl-C, nohup ignores SIGHUP, and both are inherited: the tests of what a signal
# does would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
