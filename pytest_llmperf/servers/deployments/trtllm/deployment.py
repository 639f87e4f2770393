"""One deployment from its first step to the server's command."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

import yaml

from pytest_llmperf.boundary.files import write_whole
from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.holder import facts_path, write_facts
from pytest_llmperf.servers.deployments.trtllm import commands, toolkit
from pytest_llmperf.servers.deployments.trtllm.cache import cached, fingerprint
from pytest_llmperf.servers.deployments.trtllm.commands import Ports, makes_weights
from pytest_llmperf.servers.deployments.trtllm.describe import step_names
from pytest_llmperf.servers.deployments.trtllm.repository import write_ensemble, write_llmapi
from pytest_llmperf.servers.deployments.trtllm.steps import StepError, Steps
from pytest_llmperf.telemetry.gpu import visible_gpus

_DOWNLOAD_CURE = (
    "a private or gated model needs its licence accepted and a token, as in env: {HF_TOKEN: ${HF_TOKEN}}; "
    "a model that is a folder needs no download"
)
_WEIGHTS_CURE = "flags of the script go into `convert`, as calib_size and calib_dataset"
_BUILD_CURE = (
    "flags of trtllm-build go into `args`; less memory takes a smaller max-batch-size, input-len or output-len"
)


class Deployment:
    """The steps: each method is one and returns what the next needs."""

    def __init__(self, config: TrtllmServer, ports: Ports, log: Path) -> None:
        """`log` is the server's; what belongs to it is in a folder beside that."""
        self.config = config
        self.ports = ports
        self.log = log
        self.folder = log.with_name(f"{log.stem}-trtllm")
        self.steps = Steps(self.folder, step_names(config))
        self.facts: dict[str, Any] = {}
        self._cache = Path(config.cache).expanduser()

    def command(self) -> list[str]:
        """Brings everything about that the server needs; returns the server's command. Raises StepError."""
        config = self.config
        self._check()
        self.folder.mkdir()
        model = Path(config.model) if config.is_local_model else self.download()
        served = self.weights(model) if makes_weights(config) else model
        self.facts |= {"model": str(model), "served_model": served.name if config.flow == "serve" else ""}
        engine = self.build(served) if config.flow == "engine" else served
        argv = self._serve(served) if config.flow == "serve" else self._triton(model, engine)
        write_facts(facts_path(self.log), {**self.facts, "identity": self._identity(model)})
        self.steps.begin("serve")
        self.steps.say(shlex.join(argv))
        return argv

    def _identity(self, model: Path) -> dict[str, Any]:
        """The settings that may change numbers and are no arguments; a verdict names those that differ from its
        baseline's.
        """
        config = self.config
        own = {name: getattr(config, name) for name in ("flow", "streaming", "serve", "template", "options")}
        commit = {} if config.is_local_model else {"commit": model.name}
        version = {"tensorrt_llm": self.facts["tensorrt_llm"]} if "tensorrt_llm" in self.facts else {}
        return own | commit | version

    def _check(self) -> None:
        """Looks for everything that a later step needs: a missing part is reported now, not after hours."""
        toolkit.check_programs(self.config)
        if makes_weights(self.config):
            toolkit.examples_folder(self.config)
            self.facts["tensorrt_llm"] = toolkit.version(self.config)
        if self.config.flow != "serve":
            toolkit.templates_folder(self.config)

    def download(self) -> Path:
        """The model's folder in Hugging Face's cache, whose name is the commit."""
        self.steps.begin("download")
        lines = self.steps.run(commands.download(self.config), _DOWNLOAD_CURE)
        paths = (Path(line[line.find("/") :].strip()) for line in reversed(lines) if "/" in line)
        found = next((path for path in paths if path.is_dir()), None)
        if found is None:
            raise StepError("it ended well, but named no folder", _DOWNLOAD_CURE)
        return found

    def weights(self, model: Path) -> Path:
        """The checkpoint of TensorRT-LLM, or quantised weights for the LLM API."""
        config = self.config
        self.steps.begin("quantize" if config.is_quantised else "convert")
        script = toolkit.weights_script(config, model)
        facts = {
            "command": commands.weights(config, str(script), str(model), "OUT"),
            "script": hashlib.sha256(script.read_bytes()).hexdigest(),
            "tensorrt_llm": self.facts["tensorrt_llm"],
            "model": fingerprint(model) if config.is_local_model else str(model),
        }
        ranks = range(config.tp * config.pp) if config.flow == "engine" else ()
        files = ["config.json", *(f"rank{rank}.safetensors" for rank in ranks)]

        def make(out: Path) -> None:
            self.steps.run(commands.weights(config, str(script), str(model), str(out)), _WEIGHTS_CURE)

        return cached(self._cache / "weights" / self._label(), facts, files, self.steps, make)

    def build(self, checkpoint: Path) -> Path:
        """The engine, which is of these GPUs only."""
        config = self.config
        self.steps.begin("build")
        facts = {
            "command": commands.build(config, str(checkpoint), "OUT"),
            "tensorrt_llm": self.facts["tensorrt_llm"],
            "gpus": [gpu.name for gpu in visible_gpus()],
        }
        files = ["config.json", *(f"rank{rank}.engine" for rank in range(config.tp * config.pp))]

        def make(out: Path) -> None:
            self.steps.run(commands.build(config, str(checkpoint), str(out)), _BUILD_CURE)

        sizes = f"isl{config.args['input-len']}_osl{config.args['output-len']}_bs{config.args['max-batch-size']}"
        engine = cached(self._cache / "engines" / f"{self._label()}_{sizes}", facts, files, self.steps, make)
        self.facts["engine"] = str(engine)
        return engine

    def _label(self) -> str:
        """The readable beginning of the names of folders in the cache; a hash follows."""
        config = self.config
        return f"{Path(config.model).name}_{config.precision}_tp{config.tp}_pp{config.pp}"

    def _triton(self, model: Path, engine: Path) -> list[str]:
        """Writes the repository; returns Triton's command."""
        self.steps.begin("repository")
        config, repository = self.config, self.folder / "repository"
        templates = toolkit.templates_folder(config)
        if config.flow == "engine":
            left = write_ensemble(config, templates, repository, str(model), str(engine))
            self.facts["left_over"] = left
            self.steps.say(f"{templates} to {repository}; left as they are: {', '.join(left) or 'none'}")
        else:
            write_llmapi(config, templates, repository, str(engine))
            self.steps.say(f"{templates} to {repository}")
        # The supervisor removes shared memory with this prefix, should a killed stub leave some.
        return commands.triton(config, str(repository), self.ports, f"triton_python_backend_{self.ports.http}")

    def _serve(self, model: Path) -> list[str]:
        """Writes what trtllm-serve has no flags for; returns its command."""
        options = None
        if arguments := commands.llm_arguments(self.config):
            options = self.folder / "llm.yaml"
            write_whole(options, yaml.safe_dump(arguments, sort_keys=False).encode())
        return commands.trtllm_serve(self.config, str(model), self.ports, options)
