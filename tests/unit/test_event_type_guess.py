"""Guesses of category and type: compared with the table of event types, and never a pair that ECS does not allow."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import event_type_guess, event_types
from in_jumpcloud.ecs.event_type_guess import Guess, guess
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import GUESSED, Mapper
from in_jumpcloud.insights.event import parse_event

ROOT = Path(__file__).resolve().parents[2]


def allowed() -> dict[str, set[str]]:
    """The types that ECS allows for each category."""
    with (ROOT / "tests" / "data" / "ecs_allowed_pairs.csv").open(newline="", encoding="utf-8") as file:
        return {row["category"]: set(row["types"].split(";")) for row in csv.DictReader(file)}


def wrong_pairs(found: Guess) -> bool:
    """Whether ECS does not allow the types in the categories, or one is without the other."""
    pairs = allowed()
    types = {each for category in found.categories for each in pairs[category]}
    lonely = [category for category in found.categories if pairs[category].isdisjoint(found.types)]
    return bool(set(found.types) - types or lonely or bool(found.categories) is not bool(found.types))


def test_the_table_as_if_it_were_unknown() -> None:
    """Most rows of the table would be guessed, most of those as they are, and few in another category."""
    rows = event_types.table()
    guesses = {(row.service, row.name): guess(row.name) for row in rows}
    known = [(row, found) for row in rows if (found := guesses[row.service, row.name])]
    same = [row for row, found in known if set(found.categories + found.types) == set(row.categories + row.types)]
    others = [row.name for row, found in known if not set(found.categories) & set(row.categories) and row.categories]
    print(f"{len(rows)} rows: {len(known)} guessed, {len(same)} the same, {len(others)} in another category")  # noqa: T201

    assert len(known) >= 370
    assert len(same) >= 285
    assert len(others) <= 35, others


def test_allowed_pairs(dice: random.Random) -> None:
    """No guess has a pair that ECS does not allow, whatever the words."""
    words = [word for words in event_type_guess._table().values() for word in words]
    texts = ["_".join(dice.choices([*words, "x"], k=dice.randint(1, 4))) for _ in range(20_000)]
    guesses = [(text, found) for text in texts if (found := guess(text, dice.choice(words)))]

    assert len(guesses) > 5000
    assert [text for text, found in guesses if wrong_pairs(found)] == []
    for part, table in event_type_guess._table().items():
        for word, row in table.items():
            if part == "category":
                assert set(row.types) <= allowed()[word]


def test_words() -> None:
    """The last verb, the last resource before it, and what both mean."""
    examples = {
        "quantum_badge_create": Guess(("configuration",), ("creation",), ""),
        "quantum_badge_grant": Guess(("iam",), ("admin", "change"), ""),
        "quantum_badge_shine": None,
        "pam_vault_items_deleted": Guess(("file",), ("deletion",), "credential"),
        "user_sshkey_created": Guess(("iam",), ("user", "change"), "user"),
        "user_created": Guess(("iam",), ("user", "creation"), "user"),
        "USER-GROUP_DELETE": Guess(("iam",), ("group", "deletion"), "group"),
        "bulk_update_policies_delete_users": Guess(("iam",), ("user", "deletion"), "user"),
        "system_create": Guess(("host", "configuration"), ("info", "creation"), "system"),
        "pam_login_attempt": Guess(("authentication",), ("start",), "user"),
        "policy_login_update": Guess(("configuration",), ("change",), "policy"),
        "alert_deleted": Guess((), (), "alert"),
        "": None,
        "_": None,
    }
    assert {text: guess(text) for text in examples} == examples


def test_parts_and_memberships() -> None:
    """A factor, a right or a member that comes or goes changes whom it belongs to: no one is created or deleted."""
    expected = {
        ("user", "change"): (
            *("user_mfa_removed", "user_mfa_enrolled", "user_passkey_deleted", "user_passkey_registered"),
            *("user_totp_created", "delete_user_webauthn", "user_removed_from_group", "user_added_to_group"),
            *("group_user_add", "mfa_enrolled", "user_group_users_remove", "quantum_pincode_create"),
        ),
        ("group", "change"): (
            "user_group_member_removed",
            "group_membership_add",
            "add_user_to_group",
            "group_add_user",
        ),
        ("admin", "change"): ("admin_mfa_removed", "admin_added_to_group", "role_member_add"),
        ("user", "admin", "change"): ("system_sudo_grant", "user_sudo_added", "sudo_revoke"),
        ("admin", "info"): ("admin_password_reset", "admin_password_reset_request"),
        ("user", "info"): ("user_password_reset",),
        ("group", "creation"): ("user_group_create", "group_bulk_create", "create_user_groups"),
        ("user", "deletion"): ("users_bulk_delete", "bulk_delete_users", "user_v2_delete"),
    }
    found = {types: {name: guess(name) for name in names} for types, names in expected.items()}
    wrong = {
        name: (types, each)
        for types, guesses in found.items()
        for name, each in guesses.items()
        if each is None or each[:2] != (("iam",), types)
    }
    assert wrong == {}
    assert guess("authn_policy_v2_create") == Guess(("configuration",), ("creation",), "policy")
    assert guess("association_created") == Guess(("iam",), ("group", "change"), "association")


def test_marked_and_counted() -> None:
    """A guess is marked by a tag, and its event type is counted as unknown all the same."""
    mapper = Mapper(EcsSettings(tags=("a",)), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
    bodies = [
        mapper.map(parse_event(json.dumps({"event_type": name}).encode()), 0).body
        for name in ("pam_policy_created", "pam_policy_created", "pam_shine", "user_create")
    ]

    assert [body["tags"] for body in bodies] == [["a", GUESSED], ["a", GUESSED], ["a"], ["a"]]
    assert mapper.unknown_types == {"pam_policy_created": 2, "pam_shine": 1}
    elastic = Mapper(EcsSettings(profile="elastic"), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
    body = elastic.map(parse_event(b'{"event_type": "pam_policy_created"}'), 0).body
    assert ("category" in body["event"], body["tags"]) == (False, ["forwarded"])
