"""Which streams there are, and what is different for one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from in_jumpcloud.collector import Stream
from in_jumpcloud.config.organizations import read_organizations
from in_jumpcloud.config.schema import Config, JumpCloudSettings, OverrideSettings
from in_jumpcloud.errors import StateMissing
from in_jumpcloud.insights.api import Scope
from in_jumpcloud.state.opening import open_readonly
from in_jumpcloud.state.reader import StateReader

_PREFIX = "organization "
_PROVIDER = "provider "
"""How the name of the stream of an organization begins, and that of a provider."""
_NO_OVERRIDE = OverrideSettings()


def streams(settings: Config, organizations: Collection[str] | None = None) -> list[Stream]:
    """One stream for each organization and for the provider; without either, one for the organization of the key.

    `organizations` are those that were found; None: those of the settings.
    """
    jumpcloud = settings.jumpcloud
    if organizations is None:
        organizations = () if jumpcloud.organizations == "all" else jumpcloud.organizations
    names = [f"{_PREFIX}{each}" for each in organizations]
    if provider := jumpcloud.provider_id:
        names.append(f"{_PROVIDER}{provider}")
    return [stream_named(name) for name in names or ([] if jumpcloud.is_discovered else ["default"])]


def stream_named(name: str) -> Stream:
    """The stream of this name, whatever the settings say: another process may have begun it."""
    if name.startswith(_PREFIX):
        return Stream(name, Scope(organization=name.removeprefix(_PREFIX)))
    if name.startswith(_PROVIDER):
        return Stream(name, Scope(provider=name.removeprefix(_PROVIDER)))
    return Stream(name, Scope())


def known_streams(settings: Config) -> list[Stream]:
    """The streams as far as they are known without a request: of the settings, of the file, or of the state.

    Raises:
        ConfigError: the file, or the state, cannot be read.
        StateCorrupt, StateUnavailable: the state is damaged, or an older program wrote it.
    """
    jumpcloud = settings.jumpcloud
    if jumpcloud.organizations_file:
        return streams(settings, read_organizations(jumpcloud.organizations_file))
    if jumpcloud.organizations != "all":
        return streams(settings)
    try:
        with open_readonly(settings.state) as state:
            return streams(settings, known_organizations(state))
    except StateMissing:
        return streams(settings)


def known_organizations(state: StateReader) -> list[str]:
    """The organizations that have a position in the state, also if they have left."""
    return organizations_of(row.name for row in state.streams())


def organizations_of(names: Iterable[str]) -> list[str]:
    """The organizations of those of these streams that have one."""
    return [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]


def override_of(settings: JumpCloudSettings, name: str) -> OverrideSettings:
    """What is different for the stream of this name."""
    return settings.overrides.get(name.removeprefix(_PREFIX), _NO_OVERRIDE)


def jumpcloud_of_stream(settings: JumpCloudSettings, stream: Stream) -> JumpCloudSettings:
    """The settings of the API with what is different for this stream."""
    override = override_of(settings, stream.name)
    if override == _NO_OVERRIDE:
        return settings
    return msgspec.structs.replace(
        settings, services=override.services or settings.services, start=override.start or settings.start
    )


def settings_of_stream(settings: Config, stream: Stream) -> Config:
    """The settings with what is different for this stream."""
    if override_of(settings.jumpcloud, stream.name) == _NO_OVERRIDE:
        return settings
    forward = msgspec.structs.replace(settings.forward, tag=tag_of_stream(settings, stream.name))
    return msgspec.structs.replace(settings, jumpcloud=jumpcloud_of_stream(settings.jumpcloud, stream), forward=forward)


def tag_of_stream(settings: Config, name: str) -> str:
    """forward.tag, or what the stream of this name has instead."""
    return override_of(settings.jumpcloud, name).tag or settings.forward.tag
