"""Port forwarding: the rules as they are typed, kept in a file and told to QEMU."""

from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.forwards import Forward
from rusb.server.vbox.hardware import read_hardware

FILE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="{version}">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a704}}" name="M">
    <Hardware>
      <Network>
        <Adapter slot="0" enabled="true" cable="false">
          <NAT>{rules}</NAT>
        </Adapter>
      </Network>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@pytest.mark.parametrize(
    ("text", "printed", "rule"),
    [
        (
            "ssh,tcp,127.0.0.1,2222,,22",
            "ssh,tcp,127.0.0.1,2222,,22",
            "tcp:127.0.0.1:2222-:22",
        ),
        (
            ",UDP,,53,10.0.2.15,5353",
            "udp_53_5353,udp,,53,10.0.2.15,5353",
            "udp::53-10.0.2.15:5353",
        ),
        ("a b,tcp,,65535,,1", "a b,tcp,,65535,,1", "tcp::65535-:1"),
    ],
)
def test_rules_are_read_and_told(text: str, printed: str, rule: str) -> None:
    found = Forward.parse(text)
    assert str(found) == printed
    assert found.rule == rule


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ssh", "is not NAME,tcp|udp,HOSTIP,HOSTPORT,GUESTIP,GUESTPORT"),
        ("ssh,tcp,,2222,,22,", "is not NAME"),
        ("ssh,sctp,,2222,,22", "the protocol must be tcp or udp, not 'sctp'"),
        ("ssh,tcp,,,,22", "the port of the host is not a number from 1 to 65535"),
        ("ssh,tcp,,65536,,22", "the port of the host"),
        ("ssh,tcp,,2222,,0", "the port of the guest"),
        ("ssh,tcp,,2222,,-1", "the port of the guest"),
        ("ssh,tcp,,2222,,²", "the port of the guest"),
        ("ssh,tcp,localhost,2222,,22", "'localhost' is not an IPv4 address"),
        ("ssh,tcp,,2222,10.0.2,22", "'10.0.2' is not an IPv4 address"),
        ("s\nsh,tcp,,2222,,22", "control characters"),
        ("x" * 257 + ",tcp,,2222,,22", "longer than 256"),
    ],
)
def test_what_is_no_rule_is_said(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Forward.parse(text)
    assert problem in str(caught.value)


def test_the_file_has_them_as_virtualbox_writes_them() -> None:
    text = FILE.format(version="1.18-linux", rules="")
    editor = Editor(Document(text.encode()))
    editor.add_forward(1, Forward.parse("ssh,tcp,127.0.0.1,2222,,22"))
    editor.add_forward(1, Forward.parse("dns,udp,,53,10.0.2.15,5353"))
    data = editor.document.data.decode()
    ssh = '<Forwarding name="ssh" proto="1" hostip="127.0.0.1" hostport="2222"'
    assert f'{ssh} guestport="22"/>' in data
    dns = '<Forwarding name="dns" proto="0" hostport="53" guestip="10.0.2.15"'
    assert f'{dns} guestport="5353"/>' in data
    adapter = read_hardware(editor.document, Path()).adapters[0]
    assert [str(rule) for rule in adapter.forwards] == [
        "ssh,tcp,127.0.0.1,2222,,22",
        "dns,udp,,53,10.0.2.15,5353",
    ]
    assert not adapter.is_linked
    for rule, sentence in (
        ("ssh,tcp,,99,,22", "already a rule named 'ssh'"),
        ("x,tcp,127.0.0.1,2222,,23", "the rule 'ssh' already forwards this port"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            editor.add_forward(1, Forward.parse(rule))
    with pytest.raises(SettingsError, match="named 'SSH'; the adapter has: 'ssh', 'd"):
        editor.remove_forward(1, "SSH")
    editor.remove_forward(1, "ssh")
    editor.remove_forward(1, "dns")
    assert b"Forwarding" not in editor.document.data


def test_an_adapter_has_a_limit() -> None:
    rules = "".join(
        f'<Forwarding name="{n}" hostport="{n}" guestport="1"/>' for n in range(1, 257)
    )
    text = FILE.format(version="1.18-linux", rules=rules)
    editor = Editor(Document(text.encode()))
    with pytest.raises(SettingsError, match="at most 256 rules"):
        editor.add_forward(1, Forward.parse("x,tcp,,2222,,22"))


def test_an_old_file_is_raised_and_other_networks_have_none() -> None:
    text = FILE.format(version="1.9-linux", rules="")
    editor = Editor(Document(text.encode()))
    with pytest.raises(
        SettingsError, match="adapter 2 is not attached to NAT; attach it with --nic2"
    ):
        editor.add_forward(2, Forward.parse("x,tcp,,2222,,22"))
    assert editor.version == (1, 9)
    editor.add_forward(1, Forward.parse("x,tcp,,2222,,22"))
    assert (editor.raised_from, editor.version) == ("1.9-linux", (1, 10))


def test_a_rule_of_a_file_that_is_wrong_is_kept_for_its_message() -> None:
    rules = '<Forwarding name="a" proto="7" hostport="x" guestport="22"/>'
    text = FILE.format(version="1.18-linux", rules=rules)
    (rule,) = read_hardware(Document(text.encode()), Path()).adapters[0].forwards
    assert rule.name == "a"
    assert rule.problem == "the protocol must be tcp or udp, not '7'"
