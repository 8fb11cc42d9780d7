"""Who asks: the headers that a request carries for JumpCloud to let it in."""

from __future__ import annotations

from requests import PreparedRequest
from requests.auth import AuthBase

from in_jumpcloud.units import Secret

_TELLING = 12
"""Characters at the beginning of a key that are not shown either."""


class ApiKey(AuthBase):
    """An administrator's API key.

    It is put on as `requests` authentication, which also keeps `requests` from reading a netrc file.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the key on `request`."""
        request.headers["x-api-key"] = self._key.reveal()
        return request

    def redact(self, text: str) -> str:
        """`text` without the key, should somebody have echoed it; also where the text breaks off within the key."""
        key = self._key.reveal()
        for length in range(len(key), min(len(key), _TELLING) - 1, -1):
            text = text.replace(key[:length], "***")
        return text
