"""Errors of the package; the class says whose fault it was."""

from __future__ import annotations


class LlmPerfError(Exception):
    """Base of every error that the package raises on purpose."""


class PlanError(LlmPerfError):
    """The plan (or a marker, or an option) is wrong: the user's to mend. The message carries file and line."""


class UnknownMetricError(PlanError, ValueError):
    """No metric has this name; the message names the nearest."""


class MissingRequirement(LlmPerfError):
    """This machine cannot run the configuration (GPUs, executable); the test is skipped with this reason."""


class NotThere(MissingRequirement, PlanError):
    """A path, program or `${NAME}` of the plan that is not here: a typo as likely as not, so it is never a skip."""


class MissingExtra(MissingRequirement, PlanError):
    """A library that the plan asks for and nobody installed: its gate would be turned off, so it is never a skip."""


class ServerError(LlmPerfError):
    """The server did not come up, or died; the message carries exit code, first error of the log and its path."""


class ClientError(LlmPerfError):
    """This machine cannot drive the load; the message says which limit is in the way."""


class LoadError(LlmPerfError):
    """The load driver itself failed: a worker process died, the event loop has no real time. No fault of the server."""


class InconclusiveWarning(UserWarning):
    """A gate could not tell whether a point got worse, or whether it keeps its limits. Never an error by `-W error`."""


class ReportOnlyWarning(UserWarning):
    """A point failed its baseline gate, whose profile is `report-only`. Never an error by `-W error`."""


class BaselineError(LlmPerfError):
    """A baseline file is missing, damaged, or from a newer version; the message names the file and the cure."""
