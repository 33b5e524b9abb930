"""Says in a few words why a request failed."""

from __future__ import annotations

import os
import socket
import ssl


def reason_of(error: BaseException) -> str:
    """Why a request failed, in a few words that are the same each time.

    The texts of HTTP libraries hold object addresses and URLs; the innermost error of the operating system
    says it better.
    """
    innermost: BaseException = error
    seen: set[int] = set()
    while id(innermost) not in seen:
        seen.add(id(innermost))
        nested = [arg for arg in innermost.args if isinstance(arg, BaseException)]
        reason = getattr(innermost, "reason", None)
        if isinstance(reason, BaseException):
            nested.append(reason)
        following = innermost.__cause__ or innermost.__context__ or next(iter(nested), None)
        if following is None:
            break
        innermost = following
    certificate_problem = getattr(innermost, "verify_message", None)
    if certificate_problem:
        return f"certificate not trusted: {certificate_problem}"
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower() if _is_the_systems(innermost) else innermost.strerror
    if "timeout" in type(error).__name__.lower() or isinstance(innermost, TimeoutError):
        return "timed out"
    if isinstance(innermost, OSError) and str(innermost):
        return str(innermost).splitlines()[0]
    return type(innermost).__name__


def _is_the_systems(error: OSError) -> bool:
    """Whether a text is none of somebody else's, which may hold a secret that must be found afterwards."""
    if isinstance(error, (socket.gaierror, ssl.SSLError)):
        return True
    return error.errno is not None and error.strerror == os.strerror(error.errno)
