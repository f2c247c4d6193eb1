"""Where a Kubernetes API server is, and who we are to it: kubeconfig, service account.

Everything is read anew for each connection: tokens expire and are renewed.
"""

import base64
import binascii
import contextlib
import json
import os
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rusb.errors import GuestError
from rusb.oserrors import reason

__all__ = ["Cluster", "find_cluster"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod finds of its own account."""

IN_CLUSTER = "https://kubernetes.default.svc"

LOGIN_SECONDS = 60.0
"""How long a program may take that logs in (``exec`` of a kubeconfig)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server.

    Attributes:
        server: ``https://HOST[:PORT][/PATH]``.
        token: of the user or service account; None: a certificate, or nothing.
        tls: how to trust the server, and our certificate; None for ``http://``.
        namespace: where things are if nothing else is said.
        source: where all this was found, for messages.
    """

    server: str
    token: str | None
    tls: ssl.SSLContext | None
    namespace: str
    source: str


def find_cluster() -> Cluster:
    """Read the kubeconfig, or what a pod has; it may run a program that logs in.

    Raises:
        GuestError: there is neither, or it makes no sense.
    """
    named = os.environ.get("KUBECONFIG", "")
    paths = [Path(p) for p in named.split(os.pathsep) if p] or _usual_paths()
    if named or any(path.exists() for path in paths):
        return _from_config(paths)
    if (SERVICE_ACCOUNT / "token").exists():
        return _from_pod()
    raise GuestError(
        "no Kubernetes cluster is known here: there is no ~/.kube/config, KUBECONFIG is"
        " not set, and this is no pod with a service account"
    )


def _usual_paths() -> list[Path]:
    """Where the kubeconfig is if nothing is said; a user of a pod has no home often."""
    try:
        return [Path.home() / ".kube" / "config"]
    except RuntimeError:
        return []


def _from_pod() -> Cluster:
    try:
        token = (SERVICE_ACCOUNT / "token").read_text().strip()
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        tls = ssl.create_default_context(cafile=SERVICE_ACCOUNT / "ca.crt")
    except OSError as error:
        raise GuestError(f"the pod's service account: {reason(error)}") from error
    source = "the pod's service account"
    return Cluster(IN_CLUSTER, token, tls, namespace or "default", source)


def _from_config(paths: list[Path]) -> Cluster:
    found: dict[str, dict[str, Any]] = {"clusters": {}, "users": {}, "contexts": {}}
    current = ""
    for path in paths:  # what is named first counts
        config = _load(path)
        current = current or str(config.get("current-context") or "")
        for kind, entries in found.items():
            for entry in _list(config.get(kind)):
                value = _dict(_dict(entry).get(kind[:-1]))
                entries.setdefault(str(_dict(entry).get("name")), (value, path.parent))
    source = " and ".join(map(str, paths))
    context, _ = found["contexts"].get(current, ({}, None))
    cluster, folder = found["clusters"].get(str(context.get("cluster")), ({}, None))
    if not cluster.get("server"):
        what = f"context {current!r}" if current else "no current context, and so"
        raise GuestError(f"{source}: {what} names no cluster with a server")
    user, home = found["users"].get(str(context.get("user")), ({}, None))
    try:
        if "exec" in user:
            user = _logged_in(_dict(user["exec"]), source)
        server = str(cluster["server"]).rstrip("/")
        tls = None
        if server.startswith("https://"):
            tls = _trust(cluster, folder or Path())
            _identify(tls, user, home or Path())
        token = user.get("token")
        if not token and user.get("tokenFile"):
            token = (home or Path()).joinpath(user["tokenFile"]).read_text().strip()
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise GuestError(f"{source}: {name}{reason(error)}") from error
    except (TypeError, ValueError, binascii.Error) as error:
        raise GuestError(f"{source}: {error}") from error
    namespace = str(context.get("namespace") or "default")
    return Cluster(server, str(token) if token else None, tls, namespace, source)


def _load(path: Path) -> dict[str, Any]:
    try:
        return _dict(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise GuestError(f"{path}: {reason(error)}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise GuestError(f"{path} is not a kubeconfig: {error}") from error


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _trust(cluster: dict[str, Any], folder: Path) -> ssl.SSLContext:
    data = cluster.get("certificate-authority-data")
    file = cluster.get("certificate-authority")
    authority = _decoded(data).decode("ascii") if data else None
    tls = ssl.create_default_context(
        cafile=folder / file if file else None, cadata=authority
    )
    if cluster.get("insecure-skip-tls-verify") is True:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


def _identify(tls: ssl.SSLContext, user: dict[str, Any], folder: Path) -> None:
    """Show a certificate of ours, if the user has one."""
    with contextlib.ExitStack() as stack:
        files = []
        for name in ("client-certificate", "client-key"):
            if data := user.get(f"{name}-data"):
                file = stack.enter_context(tempfile.NamedTemporaryFile())  # 0600
                file.write(_decoded(data))
                file.flush()
                files.append(file.name)
            elif user.get(name):
                files.append(str(folder / user[name]))
        if len(files) == 2:
            tls.load_cert_chain(*files)


def _logged_in(plan: dict[str, Any], source: str) -> dict[str, Any]:
    """Run the program that a kubeconfig names; what it says is a user."""
    command = [str(plan.get("command") or ""), *map(str, _list(plan.get("args")))]
    named = {
        str(_dict(e).get("name")): str(_dict(e).get("value"))
        for e in _list(plan.get("env"))
    }
    version = str(plan.get("apiVersion") or "client.authentication.k8s.io/v1")
    asked = {
        "apiVersion": version,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    env = {**os.environ, **named, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=LOGIN_SECONDS,
        )
        status = _dict(_dict(json.loads(done.stdout)).get("status"))
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or b""
        text = said.decode(errors="replace").strip()[-500:]
        why = text or "it took too long, or failed"
        raise GuestError(f"{source}: {command[0]} did not log in: {why}") from error
    except ValueError as error:
        raise GuestError(f"{source}: {command[0]} did not log in: {error}") from error
    return {
        "token": status.get("token"),
        "client-certificate-data": _encoded(status.get("clientCertificateData")),
        "client-key-data": _encoded(status.get("clientKeyData")),
    }


def _decoded(data: object) -> bytes:
    return base64.b64decode("".join(str(data).split()), validate=True)


def _encoded(text: object) -> str | None:
    return base64.b64encode(text.encode()).decode() if isinstance(text, str) else None
