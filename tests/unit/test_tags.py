"""The tag of a record."""

from __future__ import annotations

import pytest

from in_jumpcloud.tags import TagTemplate


def test_without_placeholders_every_record_has_the_same_tag() -> None:
    """The pattern itself is the tag."""
    tag = TagTemplate("jumpcloud.events")
    assert (tag.varies, tag.of("sso", "o")) == (False, "jumpcloud.events")


@pytest.mark.parametrize(
    ("service", "organization", "expected"),
    [
        ("sso", "5f", "jc.sso.5f"),
        ("a.b c\n*", "ä/ö", "jc.a_b_c_._"),
        ("", None, "jc.unknown.unknown"),
        ({"x": 1}, 5, "jc.unknown.unknown"),
        ("s" * 500, "{service}", f"jc.{'s' * 128}._service_"),
    ],
)
def test_placeholders(service: object, organization: object, expected: str) -> None:
    """Any value in the event gives a valid tag of limited length, with as many parts as the pattern has."""
    tag = TagTemplate("jc.{service}.{organization}")
    assert tag.of(service, organization) == expected
    assert len(expected.encode()) <= tag.most_bytes
