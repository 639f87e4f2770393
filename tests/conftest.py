"""Shared by all tests."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import any_machine as limits
import pytest

from pytest_llmperf.boundary import secrets

pytest_plugins = ["pytester"]

# Many tests start a pytest or a server of their own. Where no bytecode may be written (containers often say so), pytest
# rewrites the assertions of hundreds of modules anew in each of them, which takes seconds of CPU every time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Shells start background jobs without Ctrl-C, nohup ignores SIGHUP, and both are inherited: the tests of what a signal
# does would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_secret_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that one test fills in is hidden in no other's texts."""
    monkeypatch.setattr(secrets, "_forms", {})
    monkeypatch.setattr(secrets, "_pattern", None)
    monkeypatch.setattr(secrets, "_distinct", None)


@pytest.fixture
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that a busy machine makes late makes no run INVALID in this process."""
    limits.tolerate(monkeypatch)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("the certificate is made with openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key
