"""Ids: who can read them, who cannot forge them, and what each wrong one gets."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.tenant import Tenant
from service.sessions.errors import NoSession, SessionGone, WrongOwner
from service.sessions.lifetime import ids as ids_module
from service.sessions.lifetime.ids import SessionIds
from service.sessions.paths import hash_of_id

ACME, OTHER = Tenant("acme"), Tenant("other")
KEY = b"0123456789abcdef"
CHARACTERS = string.ascii_letters + string.digits + "-_."


def part(text: str, index: int, value: str) -> str:
    parts = text.split(".")
    parts[index] = value
    return ".".join(parts)


def test_an_id_names_its_owner_and_epoch():
    ids = SessionIds("rope-3")
    new = ids.new(ACME)
    version, owner, epoch, random, mac = new.text.split(".")
    assert (version, owner, epoch) == ("r1", "rope-3", ids.epoch)
    assert (len(random), len(mac)) == (22, 11)
    assert ids.parse(new.text, ACME) == new.random
    assert ids.parse(new.text, Tenant("acme", weight=2.0)) == new.random, "limits were reloaded"


def test_an_owner_may_be_a_pod_of_a_deployment():
    """Kubernetes makes names of up to 63 characters: NAME-predictor-HASH-RANDOM."""
    ids = SessionIds("o" * 63)
    new = ids.new(ACME)
    assert len(new.text) <= ids_module.MAX_ID_CHARS
    assert ids.parse(new.text, ACME) == new.random


def test_random_parts_and_epochs_differ():
    ids = SessionIds()
    assert len({ids.new(ACME).random for _ in range(1000)}) == 1000
    assert len({SessionIds().epoch for _ in range(100)}) == 100


def test_the_text_in_logs_is_short_and_not_part_of_the_id():
    new = SessionIds().new(ACME)
    hashed = hash_of_id(new.text)
    assert len(hashed) == 8
    assert hashed not in new.text
    assert repr(new) == f"SessionId({hashed})"


@pytest.mark.parametrize("key", [None, KEY])
def test_an_id_is_of_one_tenant(key):
    ids = SessionIds(key=key)
    with pytest.raises(NoSession):
        ids.parse(ids.new(ACME).text, OTHER)


def test_names_of_tenants_do_not_run_into_the_id():
    """A tenant whose name ends as the signed text begins gets another MAC."""
    ids = SessionIds(key=KEY)
    text = ids.new(Tenant("a")).text
    with pytest.raises(NoSession):
        ids.parse(text.replace("r1.", "1.", 1), Tenant("ar"))
    with pytest.raises(NoSession):
        ids.parse(text, Tenant("ar"))


@pytest.mark.parametrize("key", [None, KEY])
@given(position=st.integers(0, 200), character=st.sampled_from(CHARACTERS))
def test_a_changed_character_is_never_accepted(key, position, character):
    ids = SessionIds("0", key)
    text = ids.new(ACME).text
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    if changed != text:
        with pytest.raises((NoSession, SessionGone, WrongOwner)) as raised:
            ids.parse(changed, ACME)
        assert key is None or raised.type is NoSession


@pytest.mark.parametrize("key", [None, KEY])
@given(text=st.text(max_size=100) | st.text(CHARACTERS, max_size=100))
def test_other_texts_are_no_session(key, text):
    with pytest.raises(NoSession):
        SessionIds("0", key).parse(text, ACME)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text + "A",
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace("r1", "r2", 1),
        lambda text: text.replace(".", "..", 1),
        lambda text: text.replace("0", "\uff10", 1),
        lambda text: part(text, 1, ""),
        lambda text: part(text, 1, "o" * 64),
        lambda text: part(text, 1, "ö"),
        lambda text: part(text, 2, ""),
        lambda text: part(text, 3, "+" * 22),
        lambda text: text + "A" * 10_000,
        lambda text: "r1." + "." * 10_000,
        lambda text: "\x00" * 73,
    ],
)
@pytest.mark.parametrize("key", [None, KEY])
def test_malformed_ids(change, key):
    ids = SessionIds("0", key)
    with pytest.raises(NoSession):
        ids.parse(change(ids.new(ACME).text), ACME)


def test_an_epoch_before_with_a_given_key():
    before, after = SessionIds("0", KEY), SessionIds("0", KEY)
    text = before.new(ACME).text
    with pytest.raises(SessionGone) as raised:
        after.parse(text, ACME)
    assert raised.value.members == {"reason": "restarted"}
    for forged in (part(text, 4, "A" * 11), part(text, 2, "other")):
        with pytest.raises(NoSession):
            after.parse(forged, ACME)
    with pytest.raises(NoSession):
        after.parse(text, OTHER)


def test_an_epoch_before_with_a_key_made_at_start():
    """Each well-formed id gets the same: nothing can be learned."""
    before, after = SessionIds("0"), SessionIds("0")
    text = before.new(ACME).text
    for other in (text, part(text, 4, "A" * 11), part(text, 3, "A" * 22)):
        with pytest.raises(SessionGone, match="restarted"):
            after.parse(other, OTHER)


def test_another_owner():
    text = SessionIds("1", KEY).new(ACME).text
    with pytest.raises(WrongOwner) as raised:
        SessionIds("0", KEY).parse(text, ACME)
    assert raised.value.owner == "1"
    for ids, other in [
        (SessionIds("0", KEY), part(text, 4, "A" * 11)),
        (SessionIds("0", b"another key, also secret"), text),
    ]:
        with pytest.raises(NoSession):
            ids.parse(other, ACME)
    with pytest.raises(WrongOwner):
        SessionIds("0").parse(text, ACME)


def test_keys_of_any_length():
    for key in (b"k" * 16, b"k" * 65, b"k" * 10_000):
        ids = SessionIds("0", key)
        assert ids.parse(ids.new(ACME).text, ACME)


def test_the_mac_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(first, second):
        compared.append((first, second))
        return first == second

    monkeypatch.setattr(ids_module.hmac, "compare_digest", compare)
    ids = SessionIds()
    new = ids.new(ACME)
    ids.parse(new.text, ACME)
    with pytest.raises(NoSession):
        ids.parse(part(new.text, 4, "A" * 11), ACME)
    assert [mac for mac, _ in compared] == [new.text[-11:], "A" * 11]
