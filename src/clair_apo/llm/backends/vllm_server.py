"""Starts `vllm serve` for a model folder, waits until it answers, and stops it whatever happens.

with ModelServers(run_folder) as servers:
    server = servers.find(spec, location, name)   # starts it, or finds it running
    HttpChat(server.spec_for(spec), meter, server.fault)
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clair_apo.console import LINE_EVERY_S, duration, say
from clair_apo.errors import ModelNotFoundError, RequestError
from clair_apo.llm.backends import server_watch
from clair_apo.llm.spec import GO_ON, ModelSpec

COMMAND = "vllm"
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_HOST = "127.0.0.1"
_PORTS_TRIED = 3
_LAST_LINES, _LONGEST_LINE = 3, 200
_TAIL_BYTES = 20_000
_LOOK_EVERY_S = 0.5
_PORT_IS_TAKEN = "address already in use"
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\u00a0-\uffff]")


def find_command() -> str:
    """The path of the command `vllm`.

    Raises:
        RequestError: it is not there.
    """
    found = shutil.which(COMMAND)
    if found is None:
        raise RequestError(
            "serve: vllm needs the command vllm, which is not on PATH: `pip install vllm` (best in "
            "an environment of its own, whose bin folder you add to PATH), or leave serve out to "
            "run the model in this process, or start a server yourself and name it with base_url"
        )
    return found


def check_folder(location: str) -> None:
    """See that vLLM can serve what is at a location.

    Raises:
        ModelNotFoundError: it is no folder, or holds an adapter alone.
    """
    folder = Path(location)
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"model {location!r}: serve: vllm is for a model in a folder of this machine; download "
            "it into one, or start `vllm serve` yourself and name it with base_url"
        )
    if not (folder / "config.json").exists():
        raise ModelNotFoundError(
            f"model {location!r}: the folder holds an adapter without its model, which serve: vllm "
            "cannot serve; merge the two into a folder, or leave serve out"
        )


class VllmServer:
    """One `vllm serve` process; starts at once, and is not yet ready.

    Args:
        spec: `dtype` and `serve_args` are for the command.
        location: the model's folder.
        name: under which the model is served.
        log: the server's output is appended to this file.

    Raises:
        RequestError: vLLM is missing, or the log cannot be written.
    """

    def __init__(self, spec: ModelSpec, location: str, name: str, log: Path) -> None:
        self.name, self.log = name, log
        port = _free_port()
        self.address = f"http://{_HOST}:{port}/v1"
        command = [
            *(find_command(), "serve", location, "--host", _HOST, "--port", str(port)),
            *("--served-model-name", name, "--dtype", _DTYPES[spec.dtype]),
            # what a folder brings of penalties or top-k would change answers behind the back of the
            # request's own sampling settings, as in `local`
            *("--generation-config", "vllm"),
            *spec.serve_args,
        ]
        self._location = location
        self._began = time.monotonic()
        self._process = self._start(command)

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        # a key that the environment names for some other server would be asked of us
        environment = {k: v for k, v in os.environ.items() if k != "VLLM_API_KEY"}
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as output:
                self._log_begins = output.tell()
                return subprocess.Popen(
                    [sys.executable, "-I", server_watch.__file__, *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise RequestError(
                f"`vllm serve` cannot be started ({error.strerror or error}); look at {self.log}"
            ) from None

    def spec_for(self, spec: ModelSpec) -> ModelSpec:
        """A spec that asks this server, with the settings of another one."""
        return spec.model_copy(update={"base_url": self.address, "model": self.name})

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def lost_its_port(self) -> bool:
        """Whether it ended because another process has its port."""
        return not self.is_alive and _PORT_IS_TAKEN in self._tail().lower()

    def fault(self) -> str:
        """The sentence that ends the run where the process has ended; empty while it runs."""
        if self.is_alive:
            return ""
        lines = _readable(self._tail())[-_LAST_LINES:]
        said = f"; it said: {' | '.join(lines)}" if lines else ""
        status = self._process.returncode
        how = f"signal {status - 128}" if status > 128 else f"status {status}"
        return f"`vllm serve {self._location}` ended ({how}){said}; its log is {self.log}"

    def wait(self, patience_s: float) -> bool:
        """Wait until it answers; False where another process answers at its address.

        Args:
            patience_s: how long at most, in seconds.

        Raises:
            RequestError: it ended, or did not answer in time.
        """
        told = self._began
        say(
            f"starting `vllm serve {self._location}` at {self.address}; waiting for it, "
            f"{duration(patience_s)} at most; its log is {self.log}"
        )
        while (found := _served_at(self.address)) is None:
            if fault := self.fault():
                raise RequestError(f"{fault}; {GO_ON}")
            now = time.monotonic()
            if now - self._began > patience_s:
                raise RequestError(
                    f"`vllm serve {self._location}` did not answer within {duration(patience_s)} "
                    f"(patience_s); its log is {self.log}; {GO_ON}"
                )
            if now - told >= LINE_EVERY_S:
                told = now
                say(f"vllm: loading for {duration(now - self._began)}")
            time.sleep(_LOOK_EVERY_S)
        if self.name in found:
            say(f"vllm: answers after {duration(time.monotonic() - self._began)}")
        return self.name in found

    def stop(self) -> None:
        """End the process and all that it started; returns when they are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(server_watch.GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        """The end of what the log holds since the start."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_begins, size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class ModelServers:
    """The servers that one command starts for its models; all are stopped at the end of the block.

    At most one runs at a time, so that each has the machine's memory to itself: one for another
    model stops the one before. Models of several roles with the same weights and settings share it.

    Args:
        folder: of the run; the logs are written there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: VllmServer | None = None
        self._settings: tuple[object, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def find(self, spec: ModelSpec, location: str, name: str) -> VllmServer:
        """The server of a model, started where it does not run, once it answers.

        Args:
            spec: `dtype`, `serve_args` and `patience_s` of it count.
            location: the model's folder.
            name: under which the model is served.

        Raises:
            ModelNotFoundError: vLLM cannot serve what is at the location.
            RequestError: the server cannot be started, ended, or did not answer in time.
        """
        settings = (location, name, spec.dtype, spec.serve_args)
        running = self._running
        if running is not None and running.is_alive and settings == self._settings:
            return running
        self.stop()
        check_folder(location)
        self._settings = settings
        for _ in range(_PORTS_TRIED):
            if server := self._start(spec, location, name):
                return server
        raise RequestError(
            f"`vllm serve {location}` found its port taken {_PORTS_TRIED} times; {GO_ON}"
        )

    def _start(self, spec: ModelSpec, location: str, name: str) -> VllmServer | None:
        """Start a server and wait for it; None where another process has its port."""
        log = self._folder / f"vllm-{Path(location).name}.log"
        server = self._running = VllmServer(spec, location, name, log)
        try:
            if server.wait(spec.patience_s):
                return server
        except RequestError:
            taken = server.lost_its_port
            self.stop()
            if not taken:
                raise
        self.stop()
        return None

    def stop(self) -> None:
        """Stop the server that runs, if any."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _readable(text: str) -> list[str]:
    """The lines of a text that hold something, without colours and control characters."""
    lines = (_UNPRINTABLE.sub("", line).strip()[:_LONGEST_LINE] for line in text.splitlines())
    return [line for line in lines if line]


def _served_at(address: str) -> list[str] | None:
    """The names of the models that a server has; None while there is none that answers."""
    import httpx2  # here: the module is imported where nothing is asked

    try:
        reply = httpx2.get(f"{address}/models", timeout=5.0, trust_env=False)
        if reply.status_code != httpx2.codes.OK:
            return None
        return [str(model["id"]) for model in reply.json()["data"]]
    except httpx2.HTTPError:
        return None
    except (ValueError, KeyError, TypeError):  # something that is no server of models
        return []
