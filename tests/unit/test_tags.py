"""The tag of a record."""

from __future__ import annotations

from in_jumpcloud.tags import TagTemplate


def test_without_placeholders_every_record_has_the_same_tag() -> None:
    """The pattern itself is the tag."""
    tag = TagTemplate("jumpcloud.events")
    assert (tag.varies, tag.of("sso", "o")) == (False, "jumpcloud.events")


def test_placeholders() -> None:
    """Any value in the event gives a valid tag of limited length, with as many parts as the pattern has."""
    tag = TagTemplate("jc.{service}.{organization}")
    rows: list[tuple[object, object, str]] = [
        ("sso", "5f", "jc.sso.5f"),
        ("a.b c\n*", "ä/ö", "jc.a_b_c_._"),
        ("", None, "jc.unknown.unknown"),
        ({"x": 1}, 5, "jc.unknown.unknown"),
        ("s" * 500, "{service}", f"jc.{'s' * 128}._service_"),
    ]
    assert [tag.of(service, organization) for service, organization, _ in rows] == [expected for *_, expected in rows]
    assert max(len(expected.encode()) for *_, expected in rows) <= tag.most_bytes
