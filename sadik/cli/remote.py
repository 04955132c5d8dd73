"""A node as the command line sees it: its HTTP address, one request at a time, and honest failures.

What can go wrong is told apart by what a caller may do next: the node was not reached or said no (nothing
was changed), or the answer to a write is missing (it may have been applied).
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from sadik.errors import SadikError
from sadik.settings import Address

Document = dict[str, Any]
"""A JSON object as a node sends it."""

TIMEOUT_S: Final = 30.0
"""How long an answer may take: beyond every default time-out of a node."""
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 256 << 20
"""A key's greatest set of values in base64 takes a third of it."""
CONTEXT_HEADER: Final = "X-Sadik-Context"

_READS: Final = ("GET", "HEAD")


class RemoteError(SadikError):
    """A node did not do what was asked.

    Attributes:
        document: The problem as JSON: at least ``code``, ``detail`` and ``outcome``.
        status: The HTTP status, or 0 where none came.
        maybe_applied: True when what was asked may have been done all the same.
    """

    def __init__(self, document: Document, status: int = 0) -> None:
        super().__init__(_told(document))
        self.document = document
        self.status = status
        self.maybe_applied = document.get("outcome") == "unknown"


class Answer(NamedTuple):
    """Of one request. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Remote:
    """One node.

    Args:
        address: Of its HTTP listener.
        secret: What the node wants from its clients, or None.
        timeout_s: For each answer, unless a request says otherwise.
    """

    def __init__(
        self,
        address: Address,
        secret: bytes | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._answer_bytes_max = answer_bytes_max
        self._headers = {"Accept": "application/json", "Connection": "close"}
        if secret is not None:
            # Basic and not Bearer: a secret is any bytes, and a header is not.
            credentials = base64.b64encode(b"sadik:" + secret).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    def get(self, path: str) -> Document:
        """A document. Raises RemoteError."""
        return self._document("GET", path, None, None)

    def post(self, path: str, document: Document, *, timeout_s: float | None = None) -> Document:
        """Do something; the document that tells how it went. Raises RemoteError."""
        return self._document("POST", path, document, timeout_s)

    def delete(self, path: str) -> Document:
        """Take something back; the document that tells how it went. Raises RemoteError."""
        return self._document("DELETE", path, None, None)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One request, on a connection of its own.

        Raises:
            RemoteError: The node was not reached, its answer did not come, or it is a problem document.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        connection = http.client.HTTPConnection(
            self.address.host, self.address.port, timeout=CONNECT_TIMEOUT_S
        )
        with closing(connection):
            try:
                connection.connect()
            except OSError as error:
                raise self._failure("UNREACHABLE", "cannot be reached", error) from None
            connection.sock.settimeout(self._timeout_s if timeout_s is None else timeout_s)
            outcome = "refused" if method in _READS else "unknown"
            try:
                status, fields, content = self._exchange(
                    connection, method, target, {**self._headers, **(headers or {})}, body
                )
            except TimeoutError as error:
                raise self._failure("TIMEOUT", "did not answer in time", error, outcome) from None
            except http.client.BadStatusLine as error:
                # Its one subclass says that the connection was closed in the place of an answer.
                lost = isinstance(error, http.client.RemoteDisconnected)
                what = "does not speak HTTP there (--node is its HTTP address)"
                if lost:
                    what = "closed the connection without an answer"
                raise self._failure("LOST", what, None, outcome) from None
            except (OSError, http.client.HTTPException) as error:
                raise self._failure("LOST", "was lost before its answer came", error, outcome) from None
        if len(content) > self._answer_bytes_max:
            raise self._failure("LIMIT", f"sent more than {self._answer_bytes_max} bytes", None, outcome)
        if status >= 400:
            raise self._problem(status, content, method)
        return Answer(status, fields, content)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            connection.request(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # A node that refuses a long body may answer and close before it has read it all.
            if body is None:
                raise
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, response.read(self._answer_bytes_max + 1)

    def _document(
        self, method: str, path: str, document: Document | None, timeout_s: float | None
    ) -> Document:
        body = None if document is None else json.dumps(document).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        answer = self.ask(method, path, headers=headers, body=body, timeout_s=timeout_s)
        return self.parsed(answer)

    def parsed(self, answer: Answer) -> Document:
        """The JSON object of an answer. Raises RemoteError when it is none."""
        try:
            document = json.loads(answer.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._failure("ERR", "does not answer as a Sadik node does", None)
        return document

    def _problem(self, status: int, content: bytes, method: str) -> RemoteError:
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if not isinstance(document, dict) or "detail" not in document:
            reason = http.client.responses.get(status, "unknown")
            # Something in between, or another server: whether a node saw the request is not known.
            outcome = "unknown" if status >= 500 and method not in _READS else "refused"
            document = {"code": "ERR", "detail": f"{self.address} answers {status} {reason}"}
            document["outcome"] = outcome
        document.setdefault("code", "ERR")
        document.setdefault("outcome", "refused")
        if document["code"] == "NOROUTE":
            document["detail"] = f"{self.address} does not know this; is it an older version?"
        if status == 401:
            document["detail"] = f"{self.address} wants its secret; give --secret-file"
        return RemoteError(document, status)

    def _failure(
        self, code: str, what: str, error: Exception | None, outcome: str = "refused"
    ) -> RemoteError:
        reason = getattr(error, "strerror", None) or (str(error) if error is not None else "")
        # A time-out's own text says it a second time.
        told = f": {reason}" if reason and not isinstance(error, TimeoutError) else ""
        if isinstance(error, TimeoutError) and code == "UNREACHABLE":
            told = ": no answer"
        if outcome == "unknown":
            told += "; what was asked may have been done"
        return RemoteError({"code": code, "detail": f"{self.address} {what}{told}", "outcome": outcome})


def value_path(bucket: bytes, key: bytes) -> str:
    """Where a key lives; both are any bytes."""
    return f"/v1/kv/{quote(bucket, safe='')}/{quote(key, safe='')}"


def _told(document: Document) -> str:
    """The problem in one line: what, and where a quorum was missed each replica's reason."""
    text = str(document.get("detail", "")) or "the request failed"
    if document.get("required") is not None:
        text += f" (required {document['required']}, received {document.get('received', 0)}"
        for replica in document.get("replicas") or ():
            text += f"; {replica.get('node')}: {replica.get('reason')}"
        text += ")"
    if document.get("outcome") == "unknown" and "may have been" not in text:
        text += "; it may have been applied"
    return " ".join(text.split())
