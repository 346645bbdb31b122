"""A W&B server in this process: it answers what clients wait for and keeps what they send."""

import gzip
import itertools
import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


@dataclass
class Run:
    """What has arrived of a run: settings, and the lines of its streamed files by their number."""

    settings: dict = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    exit_codes: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict] = field(default_factory=list)
    artifacts: list[dict] = field(default_factory=list)

    @property
    def config(self) -> dict:
        return {key: entry["value"] for key, entry in json.loads(self.settings["config"]).items()}

    @property
    def history(self) -> list[dict]:
        """Return a line for each `_step`: `wandb sync` sends those of a broken run once more."""
        lines = map(json.loads, self.lines["wandb-history.jsonl"].values())
        return sorted({line["_step"]: line for line in lines}.values(), key=lambda line: line["_step"])

    @property
    def summary(self) -> dict:
        return json.loads(self.lines["wandb-summary.json"].get(0, "{}"))


class WandbServer(ThreadingHTTPServer):
    """Listen on a free port of this machine from `with` on; `url` is for WANDB_BASE_URL.

    Args:
        refuse: Answer every request with status 401, as for a wrong key.
        dies_after: Break off each connection once this operation has been answered.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, refuse: bool = False, dies_after: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refuse = refuse
        self.dies_after = dies_after
        self.dead = False
        self.runs: dict[str, Run] = defaultdict(Run)
        self.artifacts: dict[str, bytes] = {}
        self.sweeps: dict[str, str] = {}
        self.commands: list[dict] = []
        self.operations: list[str] = []

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_) -> None:
        """Say nothing of a client that has gone."""

    def stream(self, run: Run, body: dict) -> None:
        """Keep the lines of a run's files; each comes with its number, so that a retry is no duplicate."""
        for name, part in body.get("files", {}).items():
            for number, line in enumerate(part["content"], start=part["offset"]):
                run.lines[name][number] = line
        if body.get("complete"):
            run.exit_codes.append(body["exitcode"])

    def answer(self, operation: str, given: dict) -> dict:
        """Answer the GraphQL operations whose answers a client reads."""
        self.operations.append(operation)
        project = {"id": "p", "name": given.get("project") or "p", "entity": {"id": "e", "name": "e"}}
        match operation:
            case "Viewer" | "GetDefaultEntity":
                return {"viewer": {"id": "v", "username": "me", "entity": "e", "flags": "{}"}}
            case "RunResumeStatus":
                return {"model": {**project, "bucket": self._resume_status(given["name"])}}
            case "UpsertBucket":
                new = given["name"] not in self.runs
                run = self.runs[given["name"]]
                run.settings |= {key: value for key, value in given.items() if value is not None}
                bucket = {"id": given["name"], "name": given["name"], "displayName": given["displayName"]}
                bucket |= {"project": project, "sweepName": given.get("sweep"), "historyLineCount": 0}
                return {"upsertBucket": {"bucket": bucket, "inserted": new}}
            case "CreateRunFiles":
                headers = {"uploadHeaders": [], "runID": given["run"]}
                files = [{"name": name, "uploadUrl": self._upload(given, name)} for name in given["files"]]
                return {"createRunFiles": {**headers, "files": files}}
            case "NotifyScriptableRunAlert":
                self.runs[given["runName"]].alerts.append(given)
                return {"notifyScriptableRunAlert": {"success": True}}
            case "ArtifactType":
                return {"project": None}
            case "CreateArtifact":
                self.runs[given["input"]["runName"]].artifacts.append(given["input"])
                artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s"}}
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest":
                file = {"id": "f", "name": "m", "displayName": "m"}
                file |= {"uploadUrl": f"{self.url}/upload/artifact/manifest", "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
            case "CreateArtifactFiles":
                edges = [{"node": self._artifact_file(spec)} for spec in given["input"]["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
            case "UpsertSweep":
                name = f"sweep{len(self.sweeps)}"
                self.sweeps[name] = given["config"]
                self.commands = self._grid(name)
                sweep = {"name": name, "project": project}
                return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
            case "SweepWithRuns":
                sweep = {"id": "s", "name": given["sweep"], "config": self.sweeps[given["sweep"]]}
                return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "agent"}}}
            case "Heartbeat":
                busy = any(json.loads(given["runState"]).values())
                commands = [] if busy else [self.commands.pop(0) if self.commands else {"type": "exit"}]
                return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        return {}

    def _resume_status(self, name: str) -> dict | None:
        if name not in self.runs:
            return None
        run = self.runs[name]
        return {
            "name": name,
            "displayName": run.settings["displayName"],
            "tags": [],
            "config": run.settings["config"],
            "wandbConfig": '{"t": 1}',
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines["wandb-history.jsonl"]),
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsLineCount": len(run.lines["wandb-events.jsonl"]),
            "eventsTail": "[]",
            "logLineCount": len(run.lines["output.log"]),
        }

    def _upload(self, given: dict, name: str) -> str:
        return f"{self.url}/upload/{given['run']}/{name}"

    def _artifact_file(self, spec: dict) -> dict:
        name = spec["name"]
        file = {"id": "f", "name": name, "displayName": name, "storagePath": name, "uploadHeaders": []}
        return {**file, "uploadUrl": f"{self.url}/upload/artifact/{name}", "artifact": {"id": "a"}}

    def _grid(self, sweep: str) -> list[dict]:
        """Return a command for each point of the grid that the sweep's parameters span."""
        config = yaml.safe_load(self.sweeps[sweep])
        names, parameters = zip(*config["parameters"].items(), strict=True)
        points = itertools.product(*map(values_of, parameters))
        command = {"type": "run", "program": config["program"]}
        return [
            {
                **command,
                "run_id": f"{sweep}run{n}",
                "args": {k: {"value": v} for k, v in zip(names, point, strict=True)},
            }
            for n, point in enumerate(points)
        ]


def values_of(parameter: dict) -> list:
    """Return the values of a parameter; nested ones are values of a dict, as W&B has it."""
    if "parameters" not in parameter:
        return parameter.get("values", [parameter.get("value")])
    nested = parameter["parameters"]
    return [
        dict(zip(nested, values, strict=True))
        for values in itertools.product(*map(values_of, nested.values()))
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.dead:
            self.close_connection = True
            self.connection.close()
            return
        if self.server.refuse:
            return self._reply(401, {"errors": [{"message": "user is not logged in"}]})
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parts = self.path.strip("/").split("/")
        if self.path.endswith("/graphql"):
            request = json.loads(body)
            operation = request.get("operationName") or re.search(r"\w+\s+(\w+)", request["query"])[1]
            try:
                data = self.server.answer(operation, request.get("variables") or {})
            except Exception as error:  # unanswered, the client would try again for ever
                return self._reply(200, {"errors": [{"message": f"{operation}: {error!r}"}]})
            self._reply(200, {"data": data})
            self.server.dead = self.server.dead or operation == self.server.dies_after
            return None
        if parts[-1] == "file_stream":
            self.server.stream(self.server.runs[parts[-2]], json.loads(body))
        elif parts[0] == "upload":
            owner = self.server.artifacts if parts[1] == "artifact" else self.server.runs[parts[1]].files
            owner["/".join(parts[2:])] = body
        return self._reply(200, {})

    do_GET = do_POST = do_PUT = _handle

    def _reply(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        """Say nothing."""
