"""The words of an event: `message`, and its outcome, reason, code and severity."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs.accessors import distinct, first_object, get_str

# The numbers that Elastic's detection rules use for these words.
_SEVERITIES = {"info": 0, "informational": 0, "low": 21, "medium": 47, "high": 73, "critical": 99}

# First words of `status`, `result` and `state`, or parts of it such as INSTALL_FAILED. A device also answers NotNow or
# Idle, which are neither.
_OUTCOMES = {
    **dict.fromkeys(("acknowledged", "success", "successful", "succeeded", "ok", "completed"), "success"),
    **dict.fromkeys(("error", "commandformaterror", "failed", "failure", "fail", "unsuccessful"), "failure"),
}
_RESULTS = ("status", "result", "state")
_CLASSES_OF_CODES = {"2": "success", "4": "failure", "5": "failure"}
"""Outcomes by the first digit of a response code of HTTP."""

_CHALLENGE_TYPE = ["info"]  # without start: no session starts


def add_message_fields(body: dict[str, Any], data: dict[str, Any], *, is_alert: bool) -> None:
    """Add the words in an event's `data` to `body`; `is_alert`: its service is that of alerts."""
    event_fields = body["event"]
    errors = _errors(data["error_chain"]) if "error_chain" in data else []
    if ("error_message" in data or "outer" in data or errors) and (reason := _reason(data, errors)):
        event_fields["reason"] = reason
    if ("error_code" in data or "message_chain" in data or errors) and (code := _code(data, errors)):
        event_fields["code"] = code
    if "success" not in data:
        _set_outcome(event_fields, data)
    if is_alert and (severity := get_str(data, "severity").lower()):
        body["log"] = {"level": severity}
        if severity in _SEVERITIES:
            event_fields["severity"] = _SEVERITIES[severity]
    if "message" not in data and (message := _message(data, is_alert=is_alert)):
        body["message"] = message


def _message(data: dict[str, Any], *, is_alert: bool) -> str:
    """Title, description and details of an alert, the detail of another event, or else the words of its result."""
    texts = [get_str(data, "alert_title"), get_str(data, "description")] if is_alert else []
    if texts or "detail" in data:
        return ": ".join(distinct(*filter(None, (*texts, get_str(data, "detail")))))
    if "message_chain" in data:
        return get_str(first_object(data["message_chain"]), "response_message")
    return ""


def _reason(data: dict[str, Any], errors: list[dict[str, Any]]) -> str:
    """Why it failed."""
    if "error_message" in data and (reason := get_str(data, "error_message")):
        return reason
    if "outer" in data:  # outside the tunnel of an authentication; JumpCloud sends it in one of two places
        outer = first_object(data["outer"])
        if reason := get_str(outer, "error_message") or get_str(first_object(outer.get("outer")), "error_message"):
            return reason
    if not errors:
        return ""
    texts = [get_str(each, "us_english_description") or get_str(each, "localized_description") for each in errors]
    return "; ".join(distinct(*filter(None, texts)))


def _code(data: dict[str, Any], errors: list[dict[str, Any]]) -> str:
    for holder in (data, *errors):
        if type(code := holder.get("error_code")) is int:
            return str(code)
    return get_str(first_object(data["message_chain"]), "response_code") if "message_chain" in data else ""


def _errors(chain: Any) -> list[dict[str, Any]]:
    """What a managed device reported, the outermost error first."""
    return [each for each in (chain if type(chain) is list else [chain]) if type(each) is dict]


def _set_outcome(event_fields: dict[str, Any], data: dict[str, Any]) -> None:
    """Set the outcome of an event without `success`."""
    if "sso_token_success" in data:
        if data["sso_token_success"] is False and data.get("event_type") == "sso_auth" and "error_message" not in data:
            event_fields["outcome"] = "unknown"
            event_fields["type"] = _CHALLENGE_TYPE
        return
    for name in _RESULTS:
        if name in data and (words := get_str(data, name).lower().split(maxsplit=1)):
            for part in words[0].split("_"):
                if part in _OUTCOMES:
                    event_fields["outcome"] = _OUTCOMES[part]
                    return
    if "reason" in event_fields:
        event_fields["outcome"] = "failure"
    elif "message_chain" in data:
        code = get_str(first_object(data["message_chain"]), "response_code")
        if code[:1] in _CLASSES_OF_CODES:
            event_fields["outcome"] = _CLASSES_OF_CODES[code[:1]]
