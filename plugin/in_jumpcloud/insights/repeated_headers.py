"""A header that is sent several times, which requests cannot by itself.

JumpCloud's specification of the API says that `x-org-id` may be repeated "without limit":
https://docs.jumpcloud.com/api/insights/directory/1.0/index.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from requests import PreparedRequest, Response
from urllib3 import HTTPHeaderDict

from in_jumpcloud.insights.deadline import DeadlineAdapter


class Repeated(str):
    """The value of a header that is sent once with each of `values`."""

    __slots__ = ("values",)
    values: Sequence[str]

    def __new__(cls, values: Sequence[str]) -> Self:
        """As text, they have commas between them."""
        text = super().__new__(cls, ", ".join(values))
        text.values = tuple(values)
        return text


class RepeatingAdapter(DeadlineAdapter):
    """Sends a header with Repeated values once with each of them."""

    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
        """As HTTPAdapter.send."""
        if any(isinstance(each, Repeated) for each in request.headers.values()):
            headers = HTTPHeaderDict()
            for name, value in request.headers.items():
                for each in value.values if isinstance(value, Repeated) else (value,):
                    headers.add(name, each)
            request.headers = headers  # type: ignore[assignment]  # urllib3 sends its items one by one
        return super().send(request, *arguments, **options)
