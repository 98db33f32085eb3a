"""Dagster as `nvisy dev` serves it, asked as its pages ask it."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

JOBS = "{repositoriesOrError {... on RepositoryConnection {nodes {jobs {name description}}}}}"
LAUNCH = """mutation($selector: JobOrPipelineSelector!, $tags: [ExecutionTag!]!) {
  launchRun(executionParams: {selector: $selector, executionMetadata: {tags: $tags}}) {
    __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}
  }
}"""
RUNS = """{runsOrError {... on Runs {results {
  runId pipelineName status startTime endTime tags {key value}
}}}}"""
RELOAD = """mutation {reloadRepositoryLocation(
  repositoryLocationName: "nvisy_dagster.translator.workspace") {__typename}}"""
MESSAGES = """query($run: ID!) {logsForRun(runId: $run) {... on EventConnection {events {
  ... on MessageEvent {message} ... on ExecutionStepFailureEvent {error {message}}
}}}}"""
MODULE = "nvisy_dagster.translator.workspace"


@dataclass
class Served:
    """A running `nvisy dev`."""

    process: "subprocess.Popen[str]"
    port: int
    log: Path

    def ask(self, query: str, **variables: Any) -> Any:
        """Data that a GraphQL query asks for."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=180) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def jobs(self) -> dict[str, str]:
        """Name of a job -> its description."""
        nodes = self.ask(JOBS)["repositoriesOrError"].get("nodes", [])
        return {one["name"]: one["description"] or "" for node in nodes for one in node["jobs"]}

    def launch(self, job: str, **tags: str) -> str:
        """Press "Launch"; returns the run's id."""
        selector = {"repositoryLocationName": MODULE, "repositoryName": "__repository__"}
        pairs = [{"key": f"dagster/{key}", "value": value} for key, value in tags.items()]
        launched = self.ask(LAUNCH, selector={**selector, "jobName": job}, tags=pairs)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def reload(self) -> None:
        """Press "Reload"."""
        assert (
            self.ask(RELOAD)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
        )

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        """Runs, the newest first; their tags as a mapping."""
        found = self.ask(RUNS)["runsOrError"]["results"]
        for run in found:
            run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
        return [run for run in found if job in {None, run["pipelineName"]}]

    def ended(self, run_id: str, seconds: float = 90) -> str:
        """How a run ended."""

        def status() -> str | None:
            (run,) = [run for run in self.runs() if run["runId"] == run_id]
            return run["status"] if run["endTime"] else None

        return self.wait(status, seconds)

    def messages(self, run_id: str) -> str:
        """What the log of a run says."""
        events = self.ask(MESSAGES, run=run_id)["logsForRun"]["events"]
        return "\n".join(
            text
            for event in events
            for text in (event.get("message"), (event.get("error") or {}).get("message"))
            if text
        )

    def worker(self, run_id: str) -> int:
        """Number of the process that a run has, once it is told."""

        def told() -> int:
            found = re.search(r"Started process for run \(pid: (\d+)\)", self.messages(run_id))
            return int(found[1]) if found else 0

        return self.wait(told)

    def wait(self, condition: Callable[[], Any], seconds: float = 90) -> Any:
        """Wait until something is true of it; returns that."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.3)
        return found


def _reached(served: Served) -> bool:
    try:
        return bool(served.jobs())
    except OSError:
        return False


@contextmanager
def serving(
    start: Callable[..., "subprocess.Popen[str]"],
    here: Path,
    folder: str = ".",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Run `nvisy dev` on a folder until the block is left."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = here / "dev.log"
    options = {} if environment is None else {"env": environment}
    with log.open("w") as stream:
        streams = {"stdout": stream, "stderr": stream, "start_new_session": True}
        process = start("dev", folder, "--port", port, **streams, **options)
    served = Served(process, port, log)
    try:
        served.wait(lambda: _reached(served), 120)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
