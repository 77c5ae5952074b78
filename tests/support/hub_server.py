"""The requests with which huggingface_hub reads, makes and commits to a dataset repository.

It answers as the hub does, over HTTP, by the LFS protocol. Xet, by which the hub takes large files
from whoever has hf-xet, is not spoken here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.serving import make_server

_LARGE = (".tar", ".parquet", ".jpg")


@dataclass
class HubServer:
    """A hub with repositories, their files by revision, and what was sent for them."""

    # (repository, revision) → path → content.
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    # LFS objects by SHA-256, committed or not.
    objects: dict[str, bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    # The paths that each commit has changed.
    commits: list[list[str]] = field(default_factory=list)
    # Objects that were sent, one entry for each time.
    received: list[str] = field(default_factory=list)
    # So many commits are answered; None for all.
    patience: int | None = None
    url: str = ""

    def start(self) -> None:
        self._server = make_server("127.0.0.1", 0, _app(self), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()

    def of(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        return self.files.get((repo, revision)) or abort(404)


def _told(path: str, content: bytes) -> dict[str, Any]:
    pointer = hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    told = {"type": "file", "path": path, "size": len(content), "oid": blob}
    if path.endswith(_LARGE):
        told["lfs"] = {"oid": pointer, "size": len(content), "pointerSize": 130}
    return told


def _missing(code: str) -> Response:
    return Response(json.dumps({"error": code}), 404, {"X-Error-Code": code})


def _app(hub: HubServer) -> Flask:  # noqa: C901 - each request is a function
    app = Flask(__name__)
    api = "/api/datasets/<org>/<name>"

    @app.before_request
    def need_token() -> None:
        if request.path.startswith("/api") and "hf_secret" not in request.headers.get(
            "Authorization", ""
        ):
            abort(401)

    @app.get(api)
    def repository(org: str, name: str) -> Any:
        known = (f"{org}/{name}", "main") in hub.files
        return {"id": f"{org}/{name}", "sha": "0" * 40} if known else _missing("RepoNotFound")

    @app.get(f"{api}/revision/<revision>")
    def revision(org: str, name: str, revision: str) -> Any:
        known = (f"{org}/{name}", revision) in hub.files
        return {"id": f"{org}/{name}", "sha": "0" * 40} if known else _missing("RevisionNotFound")

    @app.post("/api/repos/create")
    def create() -> Any:
        asked = request.json
        repo = f"{asked['organization']}/{asked['name']}"
        hub.files[repo, "main"] = {".gitattributes": b"*.tar filter=lfs"}
        if asked.get("private") or asked.get("visibility") == "private":
            hub.private.add(repo)
        return {"url": f"{hub.url}/datasets/{repo}"}

    @app.post(f"{api}/branch/<branch>")
    def create_branch(org: str, name: str, branch: str) -> Any:
        repo = f"{org}/{name}"
        hub.files[repo, branch] = dict(hub.files[repo, "main"])
        return {}

    @app.get(f"{api}/tree/<revision>", defaults={"folder": ""})
    @app.get(f"{api}/tree/<revision>/<path:folder>")
    def tree(org: str, name: str, revision: str, folder: str) -> Any:
        files = hub.of(f"{org}/{name}", revision)
        inside = {p: c for p, c in files.items() if not folder or p.startswith(f"{folder}/")}
        if not inside:
            return _missing("EntryNotFound")
        folders = {p.rpartition("/")[0] for p in inside} - {""}
        told = [{"type": "directory", "path": p, "oid": "0" * 40} for p in sorted(folders)]
        return told + [_told(path, content) for path, content in inside.items()]

    @app.post(f"{api}/paths-info/<revision>")
    def paths_info(org: str, name: str, revision: str) -> Any:
        files = hub.of(f"{org}/{name}", revision)
        asked = request.form.getlist("paths") or request.json["paths"]
        return [_told(path, files[path]) for path in asked if path in files]

    @app.post(f"{api}/preupload/<revision>")
    def preupload(org: str, name: str, revision: str) -> Any:
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in request.json["files"]
            ]
        }

    @app.post("/datasets/<org>/<name>.git/info/lfs/objects/batch")
    def batch(org: str, name: str) -> Any:
        objects = []
        for one in request.get_json(force=True)["objects"]:
            told = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in hub.objects:
                told["actions"] = {"upload": {"href": f"{hub.url}/objects/{one['oid']}"}}
            objects.append(told)
        return {"transfer": "basic", "objects": objects}

    @app.put("/objects/<oid>")
    def receive(oid: str) -> Any:
        assert hashlib.sha256(request.data).hexdigest() == oid
        hub.objects[oid] = request.data
        hub.received.append(oid)
        return ""

    @app.get("/datasets/<org>/<name>/resolve/<revision>/<path:path>")
    def read(org: str, name: str, revision: str, path: str) -> Any:
        return Response(hub.of(f"{org}/{name}", revision)[path], headers={"ETag": '"1"'})

    @app.post("/api/validate-yaml")
    def validate() -> Any:
        return {"errors": [], "warnings": []}

    @app.post(f"{api}/commit/<revision>")
    def commit(org: str, name: str, revision: str) -> Any:
        if hub.patience is not None and len(hub.commits) >= hub.patience:
            abort(400)
        files, changed = hub.of(f"{org}/{name}", revision), []
        for line in re.findall(rb".+", request.data):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            changed += [value["path"]] if "path" in value else []
        hub.commits.append(changed)
        return {"commitUrl": f"{hub.url}/datasets/{org}/{name}/commit/{1:040d}", "commitOid": "1"}

    return app
