"""Methods of authentication, and how type external guards its library."""

import asyncio
import hmac
import importlib
import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.server import ServerConfig, serve
from rusb.server.auth import (
    ACCESS_DENIED,
    ACCESS_GRANTED,
    Request,
    asked_lines,
    choose,
    decision_line,
    hashes,
)
from rusb.server.auth import external as external_module
from rusb.server.auth import pam as pam_module
from rusb.server.auth.base import Judgement, Library, Result
from rusb.server.auth.external import MAX_TEXT, External
from rusb.server.auth.hashes import hash_legacy, hash_password, verify
from rusb.server.auth.limits import MAX_FAILURES, Limits
from rusb.server.auth.pam import Pam
from rusb.server.auth.places import MAX_PLACES, MAX_WAITING_FOR_PLACE
from rusb.server.auth.simple import Simple
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.vbox.settings import Machine, RemoteDisplay

VECTORS = json.loads(
    (Path(__file__).parent.parent / "vectors" / "rdp-security.json").read_text("utf-8")
)["vboxauthsimple"]["vectors"]
MACHINE_UUID = "00112233-4455-6677-8899-aabbccddeeff"


def machine(auth_type: str, library: str = "", **extra: str) -> Machine:
    display = RemoteDisplay(auth_type=auth_type, auth_library=library)
    prefix = "VBoxAuthSimple/users/"
    data = {prefix + name: value for name, value in extra.items()}
    return Machine("m", MACHINE_UUID, remote_display=display, extra_data=data)


def request(user: str = "john", password: str = "secret", number: int = 7) -> Request:
    return Request(user, "WORK", password, "pc", "192.0.2.1", number)


class Answers:
    """A library that answers, or raises, what it is told."""

    title = "answers"

    def problem(self) -> str:
        return ""

    def who(self, request: Request) -> str:
        return request.user

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.judgements: list[int] = []
        self.left: list[int] = []
        self.heard = threading.Event()

    def logon(self, request: Request, judgement: Judgement) -> int:
        self.judgements.append(judgement)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    def logoff(self, client_id: int) -> None:
        self.left.append(client_id)
        self.heard.set()


class Hangs(Answers):
    """A library that answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def logon(self, request: Request, judgement: Judgement) -> int:
        self.asked.append(request.user)
        self.heard.wait(20)
        return Result.GRANTED

    async def is_asked(self, count: int) -> None:
        """Wait until it is asked so often, and whether it is more often."""
        while len(self.asked) < count:  # noqa: ASYNC110 - by threads
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)


def external(library: Library, timeout: float = 5) -> External:
    return External(library, timeout=timeout)


async def test_null_grants_and_guest_denies() -> None:
    granted = await choose(machine("Null")).check(request())
    denied = await choose(machine("Guest")).check(request())
    assert granted.granted
    assert not denied.granted
    assert "judgement 4" in denied.reason


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (machine("Null"), ""),
        (machine("Guest"), "type Guest needs Guest Additions in the guest"),
        (machine("External", "null"), ""),
        (machine("External", "VBoxAuthSimple"), "VBoxAuthSimple knows no user"),
        (machine("External", "VBoxAuthSimple", john="x"), ""),
        (machine("External", "/opt/VBoxAuth.so"), "such as /opt/VBoxAuth.so, cannot"),
        (machine("External", "my_module"), ""),
    ],
)
def test_what_keeps_everybody_out_is_known(found: Machine, sentence: str) -> None:
    problem = choose(found).problem()
    assert sentence in problem
    assert bool(sentence) == bool(problem)


@pytest.mark.parametrize(
    ("user", "may_read", "is_told"),
    [(0, False, False), (1000, True, False), (1000, False, True)],
)
def test_pam_says_for_whom_it_checks(
    *,
    user: int,
    may_read: bool,
    is_told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shadow = tmp_path / "shadow"
    if may_read:
        shadow.touch()
    monkeypatch.setattr(pam_module, "SHADOW", str(shadow))
    monkeypatch.setattr("os.geteuid", lambda: user)
    problem = choose(machine("External")).problem()
    assert ("a member of the group shadow" in problem) is is_told


async def test_the_log_and_the_terminal_say_it_at_the_start(tmp_path: Path) -> None:
    said: list[str] = []
    config = ServerConfig(
        machine("Guest"),
        ports=[0],
        address="127.0.0.1",
        log=tmp_path / "VBox.log",
        state=tmp_path,
    )
    async with serve(config, guest=LoopbackGuest(), report=said.append):
        pass
    for text in ("\n".join(said), (tmp_path / "VBox.log").read_text()):
        assert "so nobody can log on; use the type external" in text


def test_log_lines_are_those_of_the_original() -> None:
    assert asked_lines(external(Answers()), request()) == [
        "AUTH: User: [john]. Domain: [WORK]. Authentication type: [External]",
        "AUTH: Library: [answers].",
    ]
    assert asked_lines(choose(machine("Null")), request()) == [
        "AUTH: User: [john]. Domain: [WORK]. Authentication type: [Null]"
    ]


@pytest.mark.parametrize(
    ("library", "title"),
    [
        ("", "VBoxAuth, PAM service login"),
        ("VBoxAuthSimple", "VBoxAuthSimple"),
        ("null", "null"),
        ("my.module", "my.module, entry point vrdp_auth3"),
    ],
)
def test_every_library_has_a_title(
    library: str, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VBOX_AUTH_PAM_SERVICE", raising=False)
    assert choose(machine("External", library)).library == title


def test_decisions_in_the_log() -> None:
    assert ACCESS_GRANTED == "AUTH: Access granted."
    assert ACCESS_DENIED == "AUTH: Access denied."


def test_a_request_does_not_show_its_password() -> None:
    assert "secret" not in repr(request())


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("is_salted", [False, True])
async def test_simple_follows_the_vector(
    vector: dict[str, str], *, is_salted: bool
) -> None:
    stored = hash_password(vector["password"]) if is_salted else vector["sha256"]
    it = choose(machine("external", "VBoxAuthSimple", john=stored))
    for user in vector["accepts_user"]:
        assert (await it.check(request(user))).granted
        it.disconnected(7)
    for user in vector["rejects_user"]:
        assert not (await it.check(request(user))).granted


async def test_simple_refuses_wrong_passwords_and_empty_hashes() -> None:
    stored = {"john": hash_legacy("secret"), "ann": "", "up": hash_legacy("x").upper()}
    it = choose(machine("External", "VBoxAuthSimple", **stored))
    for user, password in [("john", "Secret"), ("ann", ""), ("up", "x"), ("", "")]:
        assert not (await it.check(request(user, password))).granted


SALTED = (  # of "secret"
    "$scrypt$ln=15,r=8,p=1$3sGUsSCullf+aYyX1swiCw"
    "$exbx7bFJMSkFd5yxkopaFuTdGPuFwPPO75lEF8r3ips"
)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "é",
        "$scrypt$",
        SALTED.replace("ln=15", "ln=31"),
        SALTED.replace("p=1", "p=99"),
        f"{SALTED}A",
    ],
)
def test_a_malformed_hash_matches_nothing(stored: str) -> None:
    assert verify(SALTED, "secret")
    assert not verify(stored, "secret")


def test_a_surrogate_in_a_password_is_no_error() -> None:
    assert verify(hash_password("\ud800x"), "\ud800x")


@pytest.mark.parametrize(
    ("answers", "is_granted"),
    [
        ([1], True),
        ([0], False),
        ([2, 1], True),
        ([2, 2], False),
        ([3], False),
        ([-1], False),
        ([True], False),
        ([None], False),
        (["1"], False),
        ([1.0], False),
        ([ValueError("secret")], False),
        ([SystemExit("secret")], False),
    ],
)
async def test_only_the_answer_1_grants(
    answers: list[object], *, is_granted: bool
) -> None:
    library = Answers(*answers)
    decision = await external(library).check(request())
    assert decision.granted == is_granted
    assert decision_line(decision) == (ACCESS_GRANTED if is_granted else ACCESS_DENIED)
    assert "secret" not in decision.reason
    assert library.judgements == [0, 4][: len(answers)]


async def test_a_library_hears_of_the_end_of_those_it_granted_only() -> None:
    library = Answers(1, 0)
    it = external(library)
    await it.check(request(number=1))
    await it.check(request(number=2))
    it.disconnected(2)
    it.disconnected(1)
    it.disconnected(1)
    assert library.heard.wait(5)
    assert library.left == [1]


def from_address(address: str, user: str = "john") -> Request:
    return Request(user, "", "secret", address=address)


async def test_a_library_that_hangs_denies_in_time_and_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = Hangs()
    it = External(library, timeout=0.3)
    first = [it.check(from_address(f"address {n}")) for n in range(MAX_PLACES)]
    for decision in await asyncio.gather(*first):
        assert not decision.granted
        assert "no answer within 0.3 s" in decision.reason
    monkeypatch.setattr(external_module, "PATIENCE", 0.1)
    late = await it.check(request())
    assert not late.granted
    assert "not asked: earlier checks took more than 0.1 s" in late.reason
    library.heard.set()
    monkeypatch.undo()
    assert (await it.check(request())).granted


async def test_waiting_for_a_place_is_no_time_of_the_library() -> None:
    library = Hangs()
    it = External(library, timeout=1)
    async with asyncio.TaskGroup() as group:
        for n in range(MAX_PLACES):
            group.create_task(it.check(from_address(f"address {n}")))
        await asyncio.sleep(0)
        late = group.create_task(it.check(request()))
        await asyncio.sleep(1.2)
        assert not late.done()
        library.heard.set()
    assert late.result().granted


@pytest.mark.parametrize(
    "crowd", [["192.0.2.9"] * 12, [f"2001:db8:0:{n:x}::1" for n in range(12)]]
)
async def test_a_network_has_one_place_and_the_others_go_on(crowd: list[str]) -> None:
    """A dozen logons of one network, each of which takes the library's whole time."""
    library = Hangs()
    it = External(library, timeout=20)
    logons = [from_address(a, f"user {n}") for n, a in enumerate(crowd)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(it.check(logon)) for logon in logons]
        await library.is_asked(1)
        assert library.asked == ["user 0"]
        group.create_task(it.check(from_address("192.0.2.1", "other")))
        await library.is_asked(2)
        assert library.asked == ["user 0", "other"]
        library.heard.set()
    assert all(task.result().granted for task in waiting)


async def test_logons_of_a_network_that_wait_are_limited() -> None:
    library = Hangs()
    it = External(library, timeout=5)
    async with asyncio.TaskGroup() as group:
        for n in range(MAX_WAITING_FOR_PLACE):
            group.create_task(it.check(from_address("192.0.2.9", f"user {n}")))
        await asyncio.sleep(0.05)
        late = await asyncio.wait_for(it.check(from_address("192.0.2.9")), 2)
        assert "too many logons from 192.0.2.9 are waiting" in late.reason
        library.heard.set()
        assert (await it.check(from_address("192.0.2.1"))).granted
    assert (await it.check(from_address("192.0.2.9"))).granted


@pytest.mark.parametrize(
    ("library", "spellings"),
    [
        ("VBoxAuthSimple", ["bob", "X0\\bob", "X1\\bob", "\\bob"]),
        ("VBoxAuth", ["bob", "BOB", "DOM\\bob", "bob@a", " Bob@b ", "\uff42ob"]),
        ("my.module", ["bob", "Bob", "DOM\\bob", "bob@a"]),
    ],
)
def test_a_library_says_who_is_the_same_user(
    library: str, spellings: list[str]
) -> None:
    it = choose(machine("External", library))
    assert isinstance(it, External)
    assert {it._library.who(request(user)) for user in spellings} == {"bob"}
    assert it._library.who(request("bobby")) == "bobby"


def test_simple_keeps_apart_what_it_compares() -> None:
    it = Simple({})
    names = ["bob", "Bob", "bob@a", "bob ", "X\\Y\\bob"]
    assert len({it.who(request(user)) for user in names}) == len(names)


@pytest.mark.parametrize(
    "prefixes", [["X{}\\"], ["", "X{}\\"]], ids=["domains", "with and without"]
)
async def test_guesses_with_other_spellings_count_as_one_users(
    prefixes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        pass

    monkeypatch.setattr("rusb.server.auth.external.asyncio.sleep", sleep)
    it = choose(machine("External", "VBoxAuthSimple", bob=hash_legacy("right")))
    reasons = []
    for n in range(MAX_FAILURES + 5):
        user = prefixes[n % len(prefixes)].format(n) + "bob"
        reasons.append((await it.check(request(user, "wrong"))).reason)
    refused = [r for r in reasons if "too many failed attempts" in r]
    assert len(refused) == 5


def test_an_unknown_user_costs_what_a_known_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same work, so the same time: T46."""
    costs: list[tuple[int, int, int]] = []

    def count(salted: hashes.Salted, password: str) -> bytes:
        costs.append((salted.log_n, salted.block, salted.parallel))
        return b"\xff" * hashes.HASH_SIZE

    prefix = "VBoxAuthSimple/users/"
    users = {"new": hash_password("secret"), "old": hash_legacy("secret"), "none": ""}
    monkeypatch.setattr(hashes.Salted, "derive", count)
    it = Simple({prefix + name: stored for name, stored in users.items()})
    for user in ("new", "old", "none", "unknown", "", "X\\unknown"):
        for password in ("secret", "wrong", ""):
            costs.clear()
            it.logon(request(user, password), Judgement.NOT_ASKED)
            assert costs == [(hashes.LOG_N, hashes.BLOCK, hashes.PARALLEL)], user


@pytest.mark.parametrize("make", [hash_password, hash_legacy])
def test_hashes_are_compared_in_constant_time(
    make: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but compare_digest decides, and it sees both kinds whole: T46."""
    compared: list[tuple[int, int]] = []
    answer = False

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return answer

    stored = make("secret")
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert not verify(stored, "secret")
    assert compared == [(32, 32), (64, len(stored))]
    answer = True
    assert verify(stored, "wrong")


async def test_an_empty_password_is_right_only_where_its_hash_is_stored() -> None:
    stored = {
        "empty": hash_password(""),
        "old": hash_legacy(""),
        "john": "",
        "ann": "x",
    }
    it = choose(machine("External", "VBoxAuthSimple", **stored))
    granted = [
        u for u in [*stored, "unknown"] if (await it.check(request(u, ""))).granted
    ]
    assert granted == ["empty", "old"]


@pytest.mark.parametrize(
    ("user", "password", "is_asked"),
    [
        ("ann", "secret", True),
        ("", "secret", False),
        ("ann", "", False),
        ("", "", False),
        ("ann\0x", "secret", False),
        ("ann", "secret\0x", False),
    ],
)
def test_pam_is_not_asked_about_nobody_or_without_a_password(
    user: str, password: str, is_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PAM that lets in everybody is not even asked."""
    asked = []
    pamela = pytest.importorskip("pamela")
    monkeypatch.setattr(pamela, "authenticate", lambda *a, **_: asked.append(a))
    result = Pam("any").logon(request(user, password), Judgement.NOT_ASKED)
    assert (result == Result.GRANTED) is is_asked is bool(asked)


async def test_too_many_failures_refuse_without_asking() -> None:
    limits, library = Limits(), Answers(1)
    for _ in range(MAX_FAILURES):
        limits.begin("192.0.2.1", "john", 0.0)
    it = External(library, timeout=5, limits=limits, clock=lambda: 1.0)
    decision = await it.check(request())
    assert "too many failed attempts from 192.0.2.1" in decision.reason
    assert not decision.granted
    assert library.judgements == []


async def test_many_right_passwords_at_once_are_all_granted() -> None:
    """A dozen clients behind one address come back after a restart."""
    library = Answers(*[1] * 12)
    it = external(library)
    decisions = await asyncio.gather(*(it.check(request(number=n)) for n in range(12)))
    assert all(decision.granted for decision in decisions)


async def test_guesses_at_once_are_made_one_after_another_with_their_delays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await yield_once(0)

    delays: list[float] = []
    yield_once = asyncio.sleep
    monkeypatch.setattr("rusb.server.auth.external.asyncio.sleep", sleep)
    library = Answers(*[0] * MAX_FAILURES)
    it = external(library)
    decisions = await asyncio.gather(*(it.check(request()) for _ in range(15)))
    assert not any(decision.granted for decision in decisions)
    assert len(library.judgements) == MAX_FAILURES
    assert delays == [0, 0, 0.5, 1, 2, 4, 8, 8, 8, 8]


async def test_a_password_of_unreasonable_length_is_not_asked() -> None:
    library = Answers(1)
    decision = await external(library).check(request(password="x" * (MAX_TEXT + 1)))
    assert not decision.granted
    assert library.judgements == []


async def test_a_module_gets_the_documented_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rusb_test_auth.py").write_text(
        "import queue\n"
        "calls = queue.SimpleQueue()\n"
        "def vrdp_auth3(*args):\n"
        "    calls.put(args)\n"
        "    return 1\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    it = choose(machine("External", "rusb_test_auth"))
    assert (await it.check(request())).granted
    it.disconnected(7)
    calls = importlib.import_module("rusb_test_auth").calls
    who = uuid.UUID(MACHINE_UUID).bytes_le
    assert who[:4].hex() == "33221100"
    on = ("vrde", who, 0, "john", "secret", "WORK", 1, 7)
    assert calls.get(timeout=5) == on
    assert calls.get(timeout=5) == ("vrde", who, 0, "", "", "", 0, 7)


@pytest.mark.parametrize("text", ["", "vrdp_auth3 = 1", "def (", "import nothing_x"])
async def test_a_module_that_cannot_be_used_denies(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text, "utf-8")
    decision = await choose(machine("External", str(path))).check(request())
    assert not decision.granted
    assert "authentication library" in decision.reason


async def test_a_library_that_is_no_python_denies(tmp_path: Path) -> None:
    path = tmp_path / "VBoxAuth"
    path.touch()
    decision = await choose(machine("External", str(path))).check(request())
    assert not decision.granted
    assert f"{path} is not a Python file" in decision.reason


async def test_the_machines_library_goes_before_the_installations() -> None:
    stored = {"john": hash_legacy("secret")}
    both = choose(machine("External", "VBoxAuthSimple", **stored), library="null")
    assert not (await both.check(request(password="no"))).granted
    second = choose(machine("External", "default"), library="null")
    assert (await second.check(request(password="no"))).granted


@pytest.mark.parametrize("kind", ["Other", "", "null "])
async def test_t46_an_unknown_type_is_not_let_in(kind: str) -> None:
    it = choose(machine(kind, "no.such.module"))
    assert not (await it.check(request())).granted
