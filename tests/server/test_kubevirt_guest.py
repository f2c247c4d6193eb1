"""The guest kubevirt, against an API server with four slots (docs/spec/kubevirt.md)."""

import asyncio
import base64
import errno
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import GuestError
from rusb.server.guests import _kubernetes, kubevirt
from rusb.server.guests._kubernetes import find_cluster
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.kubevirt import KubevirtGuest
from rusb.usb.urb import UrbStatus
from rusb.wire.usbredir._codec import HOST_CAPS, Splitter, Type
from tests.support.certificates import Authority
from tests.support.guest_programs import IN, Device, Redirected, until
from tests.support.kubernetes import FakeApi, kubeconfig


class Cluster:
    """An API server, what runs in the slots, and a kubeconfig.

    Attributes:
        programs: in the order in which they were connected to.
        lost: devices that the guest dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.programs: list[Redirected] = []
        self.api = FakeApi(self._connect)
        self.lost: list[tuple[AttachedDevice, str]] = []

    def _connect(self, slot: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.programs.append(Redirected(theirs))
        return ours

    def login(self, **user: Any) -> None:
        kubeconfig(self.config, f"http://127.0.0.1:{self.api.port}", **user)

    async def guest(self) -> KubevirtGuest:
        guest = KubevirtGuest("lab/vm")
        guest.watch_lost(lambda device, why: self.lost.append((device, why)))
        await guest.start()
        return guest


@pytest.fixture
async def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(kubevirt, "REDIAL_SECONDS", (0.05, 0.1))
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(cluster.config))
    async with asyncio.timeout(30), cluster.api.listening():
        cluster.login(token="good")
        yield cluster
    for program in cluster.programs:
        await asyncio.to_thread(program.close)


async def test_a_device_is_attached_used_and_detached(cluster: Cluster) -> None:
    guest, device = await cluster.guest(), Device()
    assert await guest.attach(device) == "a USB slot of lab/vm"
    (program,) = cluster.programs
    await until(lambda: program.is_ready)
    number = program.start(IN, 100_000)
    await until(lambda: device.seen)
    device.complete(device.seen[0])
    await until(lambda: program.statuses)
    assert len(program.results[number][0].data) == 100_000
    await guest.detach(device)
    await guest.detach(device)
    await until(lambda: not program.is_attached and not cluster.api.used)
    await guest.aclose()
    assert cluster.lost == []


@pytest.mark.parametrize("is_late", [False, True])
async def test_the_fifth_device_finds_no_slot(cluster: Cluster, is_late: bool) -> None:
    cluster.api.is_late = is_late
    guest, other = await cluster.guest(), await cluster.guest()
    for number in range(4):
        await guest.attach(Device(number + 1))
    with pytest.raises(GuestError, match="no free USB slot: lab/vm has 4, and all are"):
        await guest.attach(Device(5))
    # all are taken by others
    with pytest.raises(GuestError, match="no free USB slot|all 4 may be in use"):
        await other.attach(Device(6))
    await other.aclose()
    await guest.aclose()
    await until(lambda: not cluster.api.used)


async def test_without_the_right_to_do_so_it_says_which_one(cluster: Cluster) -> None:
    cluster.login(token="viewer")
    guest = await cluster.guest()
    with pytest.raises(GuestError, match="'get' on 'virtualmachineinstances/usbredir'"):
        await guest.attach(Device())
    await guest.aclose()


async def test_a_token_that_has_expired_is_named_and_a_new_one_is_used(
    cluster: Cluster,
) -> None:
    cluster.login(token="old")
    guest, device = await cluster.guest(), Device()
    with pytest.raises(GuestError, match=r"may have expired, so log in again \(fake"):
        await guest.attach(device)
    cluster.login(token="good")
    await guest.attach(device)
    await guest.aclose()


async def test_a_machine_that_does_not_run_is_named(cluster: Cluster) -> None:
    cluster.api.is_running = False
    guest = await cluster.guest()
    with pytest.raises(GuestError, match="no running machine lab/vm"):
        await guest.attach(Device())
    await guest.aclose()


async def test_a_dropped_connection_is_dialled_again_until_the_machine_runs(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    guest, device = await cluster.guest(), Device()
    await guest.attach(device)
    await until(lambda: cluster.programs[0].is_ready)
    cluster.programs[0].start(IN, 8)
    await until(lambda: device.seen)
    cluster.api.is_running = False  # it moves
    before = device.resets
    await cluster.api.drop()
    await until(lambda: cluster.api.asked.count(404) > 2)
    assert not cluster.programs[0].is_attached
    device.complete_all(UrbStatus.CANCELLED)
    cluster.api.is_running = True
    await until(lambda: len(cluster.programs) == 2 and cluster.programs[1].is_ready)
    assert device.resets > before
    number = cluster.programs[1].start(IN, 16)
    await until(lambda: len(device.seen) > 1)
    device.complete(device.seen[-1])
    await until(lambda: cluster.programs[1].statuses)
    assert cluster.programs[1].results[number][0].status is UrbStatus.OK
    assert cluster.lost == []
    said = [r.message for r in caplog.records if "trying again" in r.message]
    assert len(said) == 2  # once for each reason
    await guest.aclose()


async def test_a_system_without_files_left_is_an_error_like_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, tried = await cluster.guest(), list[None]()
    await guest.attach(Device(1))

    async def dial() -> None:
        tried.append(None)
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(guest, "_dial", dial)
        with pytest.raises(OSError, match="Too many open files"):
            await guest.attach(Device(2))
        await cluster.api.drop()
        await until(lambda: len(tried) > 2)
    await until(lambda: len(cluster.programs) == 2 and cluster.programs[1].is_ready)
    await guest.aclose()


async def test_a_device_that_the_machine_refuses_is_lost(cluster: Cluster) -> None:
    guest, device = await cluster.guest(), Device()
    await guest.attach(device)
    (program,) = cluster.programs
    await until(lambda: program.is_ready)
    host = Splitter(from_host=False, caps=HOST_CAPS)
    host.caps = HOST_CAPS
    program._socket.sendall(host.serialize(Type.FILTER_REJECT))
    await until(lambda: cluster.lost)
    assert cluster.lost == [(device, "the machine refused the device")]
    await until(lambda: not cluster.api.used)
    await guest.detach(device)
    await guest.aclose()
    assert len(cluster.programs) == 1


async def test_a_machine_without_usb_says_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubevirt, "CONNECT_TIMEOUT", 0.2)
    left: list[socket.socket] = []

    def silent(slot: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        left.append(theirs)
        return ours

    monkeypatch.setattr(cluster.api, "_connect", silent)
    guest = await cluster.guest()
    with pytest.raises(GuestError, match="did not give a USB slot"):
        await guest.attach(Device())
    await guest.aclose()
    left[0].close()


async def test_what_is_no_api_server_is_named(cluster: Cluster) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kubeconfig(cluster.config, f"http://127.0.0.1:{port}", token="good")
    guest = await cluster.guest()
    with pytest.raises(GuestError, match="is not an API server with KubeVirt"):
        await guest.attach(Device())
    server.close()
    kubeconfig(cluster.config, "http://127.0.0.1:1", token="good")
    await guest.aclose()


async def test_nobody_listens(cluster: Cluster) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    kubeconfig(cluster.config, f"http://127.0.0.1:{port}", token="good")
    guest = await cluster.guest()
    with pytest.raises(GuestError, match=f"cannot connect to http://127.0.0.1:{port}"):
        await guest.attach(Device())
    await guest.aclose()


@pytest.mark.parametrize("text", [None, "", "lab/", "/vm", "a/b/c", "Lab/vm", "x y"])
def test_a_name_that_is_none(text: str | None) -> None:
    with pytest.raises(GuestError, match="as kubevirt:NAMESPACE/VMI"):
        KubevirtGuest(text)


async def test_the_namespace_is_that_of_the_context(cluster: Cluster) -> None:
    guest = KubevirtGuest("vm")
    await guest.start()
    await guest.attach(Device())
    await guest.aclose()


@pytest.mark.parametrize(
    ("is_trusted", "is_checked"), [(True, True), (False, True), (False, False)]
)
async def test_tls_with_certificates_of_both(
    tmp_path: Path, cluster: Cluster, is_trusted: bool, is_checked: bool
) -> None:
    """The server's is signed by the cluster's CA, and so is ours, which it wants."""
    authority = Authority("CA")
    certificate, key = Authority("localhost", authority).write(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    tls.load_verify_locations(authority.write(tmp_path)[0])
    tls.verify_mode = ssl.CERT_REQUIRED
    trusted, _ = (authority if is_trusted else Authority("Other")).write(tmp_path)
    names = {"client-certificate": certificate, "client-key": key}
    user = {
        f"{name}-data": base64.b64encode(path.read_bytes()).decode()
        for name, path in names.items()
    }
    cluster.api.port = 0
    async with cluster.api.listening(tls) as port:
        kubeconfig(
            cluster.config,
            f"https://127.0.0.1:{port}",
            {
                "certificate-authority": str(trusted),
                "insecure-skip-tls-verify": not is_checked,
            },
            token="good",
            **user,
        )
        guest = await cluster.guest()
        if is_trusted or not is_checked:
            await guest.attach(Device())
        else:
            with pytest.raises(GuestError, match="is not the one that .*config names"):
                await guest.attach(Device())
        await guest.aclose()


# ----------------------------------------------------------------- kubeconfig ----


def test_a_program_that_logs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "login"
    program.write_text(
        "#!/bin/sh\n"
        'case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 1;; esac\n'
        'test "$1" = token || { echo "no session" >&2; exit 3; }\n'
        'echo "{\\"status\\": {\\"token\\": \\"$SECRET\\"}}"\n'
    )
    program.chmod(stat.S_IRWXU)
    plan = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(program),
        "args": ["token"],
        "env": [{"name": "SECRET", "value": "from-exec"}],
    }
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    kubeconfig(path, "http://k", exec=plan)
    assert find_cluster().token == "from-exec"
    kubeconfig(path, "http://k", exec=plan | {"args": ["x"]})
    with pytest.raises(GuestError, match="login did not log in: no session"):
        find_cluster()
    kubeconfig(path, "http://k", exec=plan | {"command": "/nowhere/at/all"})
    with pytest.raises(GuestError, match="/nowhere/at/all: No such file"):
        find_cluster()


def test_a_token_file_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    kubeconfig(path, "http://k/prefix/", tokenFile="token")
    for token in ("one", "two"):
        (tmp_path / "token").write_text(f"{token}\n")
        assert find_cluster().token == token
    assert find_cluster().server == "http://k/prefix"


def test_several_files_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kubeconfig(tmp_path / "a", "http://first", token="one")
    second = kubeconfig(tmp_path / "b", "http://second", token="two")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}")
    assert (find_cluster().server, find_cluster().token) == ("http://first", "one")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not a kubeconfig"),
        ("[1, 2]", "no current context"),
        ("current-context: x", "context 'x' names no cluster"),
        (
            "current-context: x\ncontexts: 5\nclusters: [1, {name: 2}]",
            "names no cluster",
        ),
    ],
)
def test_a_kubeconfig_that_is_none(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(GuestError, match=why):
        find_cluster()


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"certificate-authority": "nowhere.crt"}, {}),
        ({"certificate-authority-data": "!!!"}, {}),
        ({"certificate-authority-data": base64.b64encode(b"x").decode()}, {}),
        ({}, {"client-certificate": "no", "client-key": "no"}),
        ({}, {"tokenFile": "nowhere"}),
        ({}, {"tokenFile": 5}),
    ],
)
def test_credentials_that_cannot_be_read(
    cluster: dict[str, str],
    user: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = kubeconfig(tmp_path / "config", "https://k", cluster, **user)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(GuestError, match=str(path)):
        find_cluster()


def test_a_pod_has_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    account = tmp_path / "account"
    monkeypatch.setattr(_kubernetes, "SERVICE_ACCOUNT", account)
    with pytest.raises(GuestError, match="no Kubernetes cluster is known here"):
        find_cluster()
    account.mkdir()
    (account / "token").write_text("pods\n")
    (account / "namespace").write_text("here")
    with pytest.raises(GuestError, match="the pod's service account: No such file"):
        find_cluster()
    Authority("CA").write(tmp_path)[0].rename(account / "ca.crt")
    found = find_cluster()
    assert (found.token, found.namespace) == ("pods", "here")
    assert found.server == "https://kubernetes.default.svc"
    monkeypatch.delenv("HOME")  # its user is often a mere number
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert find_cluster().token == "pods"
