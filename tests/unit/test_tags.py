"""The tag of a record."""

from __future__ import annotations

from in_jumpcloud.tags import MAX_TAGS, TagTemplate


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


def test_the_number_of_tags_is_bounded() -> None:
    """The first ones stay what they are; further ones are one tag, which keeps the parts of the pattern."""
    tag = TagTemplate("jc.{service}.{organization}")
    made = [tag.of(f"s{number}", "o") for number in range(10 * MAX_TAGS)]
    assert made[:MAX_TAGS] == [f"jc.s{number}.o" for number in range(MAX_TAGS)]
    assert set(made[MAX_TAGS:]) == {"jc.other.other"}
    assert tag.of("s0", "o") == "jc.s0.o"
